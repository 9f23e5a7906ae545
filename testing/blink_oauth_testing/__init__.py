"""What users test with: a local platform, a pytest fixture, and tests that prove a token store.

Platform and fixture need the extra `blink-oauth[testing]`. Everything loads when it is first named,
so that pytest finds the fixture in a bare installation too, where the platform cannot load.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sandbox import BankPolicy as BankPolicy
    from .sandbox import Sandbox as Sandbox
    from .store_contract import TokenStoreContract as TokenStoreContract

# Hidden from type checkers, so that a misspelt name stays an error.
if not TYPE_CHECKING:  # pragma: no branch
    _HOME = {
        "BankPolicy": "sandbox",
        "Sandbox": "sandbox",
        "TokenStoreContract": "store_contract",
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_HOME[name]}", __name__), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOME})

"""Tools for tests: a local platform, a pytest fixture, and a test class for token stores.

Platform and fixture need the extra `blink-oauth[testing]`. Each name is imported on first use, so
that pytest also finds the fixture without the extra, where the platform cannot be imported.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sandbox import BankPolicy as BankPolicy
    from .sandbox import Sandbox as Sandbox
    from .store_contract import TokenStoreContract as TokenStoreContract

# Hidden from type checkers, so that a misspelt name stays an error.
if not TYPE_CHECKING:  # pragma: no branch
    _MODULE_OF = {
        "BankPolicy": "sandbox",
        "Sandbox": "sandbox",
        "TokenStoreContract": "store_contract",
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULE_OF})

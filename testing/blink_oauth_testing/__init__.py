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

    def __getattr__(name: str) -> object:
        # Written out: what freezes a program finds modules by their import statements only.
        if name in {"BankPolicy", "Sandbox"}:
            from . import sandbox as module
        elif name == "TokenStoreContract":
            from . import store_contract as module
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(module, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), "BankPolicy", "Sandbox", "TokenStoreContract"})

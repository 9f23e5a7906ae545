"""Tools for tests: a local platform, pytest fixtures, and a test class for token stores.

Platform and fixtures need the extra `blink-oauth[testing]`. Each name is imported on first use, so
that pytest also finds the fixtures without the extra, where the platform cannot be imported.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sandbox import DEFAULT_BANKS as DEFAULT_BANKS
    from .sandbox import FAULTS as FAULTS
    from .sandbox import SILENT_FAULTS as SILENT_FAULTS
    from .sandbox import Bank as Bank
    from .sandbox import BankPolicy as BankPolicy
    from .sandbox import CertificateAuthority as CertificateAuthority
    from .sandbox import Clock as Clock
    from .sandbox import ContractViolationError as ContractViolationError
    from .sandbox import Credentials as Credentials
    from .sandbox import Delivery as Delivery
    from .sandbox import Exchange as Exchange
    from .sandbox import Fault as Fault
    from .sandbox import ManagerOptions as ManagerOptions
    from .sandbox import Sandbox as Sandbox
    from .store_contract import ManualClock as ManualClock
    from .store_contract import TokenStoreContract as TokenStoreContract

# Hidden from type checkers, so that a misspelt name stays an error.
if not TYPE_CHECKING:  # pragma: no branch
    _SANDBOX = {
        *("DEFAULT_BANKS", "FAULTS", "SILENT_FAULTS", "Bank", "BankPolicy", "CertificateAuthority"),
        *("Clock", "ContractViolationError", "Credentials", "Delivery", "Exchange", "Fault"),
        *("ManagerOptions", "Sandbox"),
    }
    _STORE_CONTRACT = {"ManualClock", "TokenStoreContract"}

    def __getattr__(name: str) -> object:
        # Written out: what freezes a program finds modules by their import statements only.
        if name in _SANDBOX:
            from . import sandbox as module
        elif name in _STORE_CONTRACT:
            from . import store_contract as module
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(module, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_SANDBOX, *_STORE_CONTRACT})

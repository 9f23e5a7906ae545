"""A strict local bLink platform with banks behind it, over mutual TLS on loopback.

Use it in code with `with Sandbox() as sandbox:`, in tests through the pytest fixture
`blink_sandbox`, or from a shell with `blink-oauth sandbox`. Other processes connect with the
variables of `Sandbox.environment()`, and control it at `Sandbox.control_url`. It needs the extra
`blink-oauth[testing]`, and the command `blink-oauth[cli]`, too.
"""

from __future__ import annotations

try:
    import aiohttp as _aiohttp  # noqa: F401
    import openapi_core as _openapi_core  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"The sandbox needs {error.name}: pip install 'blink-oauth[testing]'."
    ) from error

from .banks import DEFAULT_BANKS, Bank, BankPolicy
from .certificates import CertificateAuthority, Credentials
from .clock import Clock, ManagerOptions
from .exchanges import ContractViolationError, Exchange
from .faults import FAULTS, SILENT_FAULTS, Fault
from .messages import Delivery
from .server import Sandbox

__all__ = [
    "DEFAULT_BANKS",
    "FAULTS",
    "SILENT_FAULTS",
    "Bank",
    "BankPolicy",
    "CertificateAuthority",
    "Clock",
    "ContractViolationError",
    "Credentials",
    "Delivery",
    "Exchange",
    "Fault",
    "ManagerOptions",
    "Sandbox",
]

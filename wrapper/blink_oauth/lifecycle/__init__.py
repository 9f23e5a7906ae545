"""Tokens kept alive: the manager, and what it can be told and tells."""

from .events import Event, EventName
from .keepalive import Report
from .manager import TokenManager
from .profile import AfterUncertainty, TargetProfile
from .status import GrantStatus

__all__ = [
    "AfterUncertainty",
    "Event",
    "EventName",
    "GrantStatus",
    "Report",
    "TargetProfile",
    "TokenManager",
]

"""What one check found, as a value."""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen

__all__ = ["Check", "Level", "doubtful", "failed", "passed"]


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@frozen
class Check:
    """What one check found.

    Args:
        name: A stable word for machines, such as `certificate_key`.
        level: How bad it is.
        finding: What was found, in words. Never holds a secret.
        remedy: What to do; None if, and only if, the level is OK.

    Raises:
        ValueError: A remedy is missing, or there is one for what is right.
    """

    name: str
    level: Level
    finding: str
    remedy: str | None = None

    def __attrs_post_init__(self) -> None:
        if (self.level is Level.OK) is not (self.remedy is None):
            raise ValueError(f"{self.name} is {self.level}: a remedy belongs to what is not right.")


def passed(name: str, finding: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, Level.OK, finding)


def doubtful(name: str, finding: str, remedy: str) -> Check:
    """Return a check that found what may become a fault, or that could not be made."""
    return Check(name, Level.WARN, finding, remedy)


def failed(name: str, finding: str, remedy: str) -> Check:
    """Return a check that found a fault."""
    return Check(name, Level.FAIL, finding, remedy)

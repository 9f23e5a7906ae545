"""The result of one check, as a value."""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen

__all__ = ["Check", "Level", "failed", "passed", "warning"]


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@frozen
class Check:
    """The result of one check.

    Args:
        name: A stable name for programs, such as `certificate_key`.
        level: The severity.
        finding: A sentence that says what was found. Contains no secret.
        remedy: What to do; None if and only if the level is OK.

    Raises:
        ValueError: A level other than OK has no remedy, or OK has one.
    """

    name: str
    level: Level
    finding: str
    remedy: str | None = None

    def __attrs_post_init__(self) -> None:
        if (self.level is Level.OK) is not (self.remedy is None):
            raise ValueError(f"{self.name} is {self.level}: every level needs a remedy, except OK.")


def passed(name: str, finding: str) -> Check:
    """Return a check of level OK."""
    return Check(name, Level.OK, finding)


def warning(name: str, finding: str, remedy: str) -> Check:
    """Return a check that found a possible fault, or that could not be made."""
    return Check(name, Level.WARN, finding, remedy)


def failed(name: str, finding: str, remedy: str) -> Check:
    """Return a check that found a fault."""
    return Check(name, Level.FAIL, finding, remedy)

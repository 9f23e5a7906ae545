"""The platform's environments, as the shape of an id tells them.

The ids `CIDX…`, `CIDP…`, `IIDX…` and `IIDP…` stand on the platform's page on custom headers. That X
means test and P production is inferred from its examples, so it is a reason to ask, not a fact.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Environment", "environment_of", "is_environment"]

Environment = Literal["test", "production"]

_PREFIXES: dict[str, Environment] = {
    "CIDX": "test",
    "IIDX": "test",
    "CIDP": "production",
    "IIDP": "production",
}


def environment_of(identity: str) -> Environment | None:
    """Return the environment that the id of a client or a target looks like, or None.

    Source: bLink custom headers (the shapes); their meaning is inferred.
    """
    return _PREFIXES.get(identity[:4])


def is_environment(text: object) -> bool:
    """Say whether a text names an environment."""
    return isinstance(text, str) and text in {"test", "production"}

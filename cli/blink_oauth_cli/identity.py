"""Who we say we are: the ids and the user agent, looked at without asking anybody."""

from __future__ import annotations

import re
from collections.abc import Iterator

from blink_oauth.settings import Settings

from .check import Check, doubtful, failed, passed
from .environments import Environment, environment_of

__all__ = ["identity_checks"]

CLIENT_ID = re.compile(r"CID[XP]\d{10}")
TARGET_ID = re.compile(r"IID[XP]\d+")
NAME_AND_VERSION = re.compile(r"[^\s/]+/v?\d")


def identity_checks(
    settings: Settings, environment: Environment | None, target_id: str | None
) -> Iterator[Check]:
    """Look at the client id, at the target's id if there is one, and at the user agent.

    Args:
        settings: What the client would use.
        environment: What they are meant for, or None.
        target_id: The id of a bank, or None.

    Source: bLink custom headers.
    """
    yield _id_check("client_id", settings.client_id, CLIENT_ID, "CIDX0000000002", environment)
    if target_id is not None:
        yield _id_check("target_id", target_id, TARGET_ID, "IIDX99999", environment)
    yield _user_agent_check(settings.user_agent)


def _id_check(
    name: str, value: str, shape: re.Pattern[str], example: str, environment: Environment | None
) -> Check:
    if shape.fullmatch(value) is None:
        return doubtful(
            name,
            f"{value} does not look like such an id of bLink's directory, as {example} does.",
            "Copy the id from bLink's directory, without blanks.",
        )
    looks = environment_of(value)
    if environment not in {None, looks}:
        return failed(
            name,
            f"{value} looks like an id of {looks}, and these settings are for {environment}.",
            f"Use the id that bLink gave for {environment}, or the profile for {looks}.",
        )
    return passed(name, f"{value} looks like an id of {looks}.")


def _user_agent_check(user_agent: str) -> Check:
    if NAME_AND_VERSION.match(user_agent) is None:
        return doubtful(
            "user_agent",
            f"The user agent {user_agent} does not name a version, which the platform asks for.",
            "Name software and version, as in acme-books/3.2.",
        )
    return passed("user_agent", f"{user_agent} names software and version.")

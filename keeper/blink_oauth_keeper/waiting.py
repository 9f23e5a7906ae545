"""Waiting for a token: in a thread, or in a coroutine of any asyncio event loop."""

from __future__ import annotations

from asyncio import wait_for, wrap_future
from concurrent.futures import Future

from blink_oauth.context import Grant, Psu
from blink_oauth.tokens import Token

from .answers import overdue, remaining
from .dispatch import Dispatch
from .freshness import Need

__all__ = ["await_token", "wait_for_token"]


def wait_for_token(
    dispatch: Dispatch, grant: Grant, wanted: Need, psu: Psu, timeout: float | None
) -> Token:
    """Return a token that does, or raise why there is none; the thread waits for it.

    Args:
        dispatch: Brings it.
        grant: Whose token.
        wanted: What it must be good for.
        psu: The person who waits for it, if one does.
        timeout: Seconds to wait at most.

    Raises:
        BlinkError: There is none, or not in time.
    """
    left = remaining(timeout, dispatch.monotonic)
    asked = dispatch.ask(grant, wanted, psu)
    while isinstance(asked, Future):
        try:
            landing = asked.result(left())
        except TimeoutError:
            raise overdue() from None
        asked = dispatch.consider(grant, landing, wanted, psu)
    return asked


async def await_token(
    dispatch: Dispatch, grant: Grant, wanted: Need, psu: Psu, timeout: float | None
) -> Token:
    """Return a token that does, or raise why there is none; the coroutine waits for it.

    Args:
        dispatch: Brings it.
        grant: Whose token.
        wanted: What it must be good for.
        psu: The person who waits for it, if one does.
        timeout: Seconds to wait at most.

    Raises:
        BlinkError: There is none, or not in time.
    """
    left = remaining(timeout, dispatch.monotonic)
    asked = dispatch.ask(grant, wanted, psu)
    while isinstance(asked, Future):
        try:
            landing = await wait_for(wrap_future(asked), left())
        except TimeoutError:
            raise overdue() from None
        asked = dispatch.consider(grant, landing, wanted, psu)
    return asked

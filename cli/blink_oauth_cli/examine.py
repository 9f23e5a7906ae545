"""All checks, in the order in which a person would make them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from blink_oauth.client import utc_now
from blink_oauth.settings import Settings
from blink_oauth_keeper import TokenStore

from .call import call_checks
from .check import Check
from .checks_local import certificate_checks
from .checks_network import Answered, visit
from .checks_store import storage_checks
from .clock import clock_check
from .environments import Environment
from .identity import identity_checks
from .lease import lease_check
from .line import line_checks

__all__ = ["examine"]


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def examine(
    settings: Settings,
    *,
    environment: Environment | None,
    target_id: str | None,
    username: str | None,
    lease: float,
    open_store: Callable[[], TokenStore],
    store_path: Path | None,
    keys_file: Path | None = None,
    clock: Callable[[], datetime] = utc_now,
    new_name: Callable[[], str] = secrets.token_hex,
    free_bytes: Callable[[Path], int] = _free_bytes,
) -> Iterator[Check]:
    """Make every check, and yield what each found as soon as it is known.

    Nothing that is wrong makes it raise, and nothing is spent or changed: no code, no token, no
    row. A check that needs another one to pass says that it was not made.

    Args:
        settings: What the client would use.
        environment: What the settings are meant for, or None if that is not known.
        target_id: A bank to make a harmless call to, or None to make none.
        username: The user of that call; a made-up one if None.
        lease: Seconds that a refresh has at most, as the manager will get it.
        open_store: Opens the token store. It may raise `TroubleError`, `BlinkError`, `OSError` and
            `ImportError`.
        store_path: The file of the store, or None if it is no file. A file that is not there yet
            is not created.
        keys_file: The file of the store's keys, or None if they are in none.
        clock: Tells the present moment, aware UTC.
        new_name: Makes a random name, for a token and a grant that do not exist.
        free_bytes: Tells how many bytes are free in a folder.
    """
    yield from identity_checks(settings, environment, target_id)
    yield from certificate_checks(settings, now=clock())
    yield lease_check(lease, settings.timeouts)
    ours = visit(settings, clock)
    answers = []
    for check, answer in line_checks(settings, ours, clock):
        yield check
        answers += [answer] if answer else []
    yield clock_check(answers[0] if answers else None)
    reached = isinstance(ours, Answered)
    yield from call_checks(settings, target_id, username, clock, new_name, reached=reached)
    yield from storage_checks(
        settings.client_id,
        open_store,
        path=store_path,
        keys_file=keys_file,
        new_name=new_name,
        free_bytes=free_bytes,
    )

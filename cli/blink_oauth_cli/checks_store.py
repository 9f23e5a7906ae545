"""The checks of `doctor` that use the token store: its file, access, tables and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from blink_oauth.context import Grant
from blink_oauth.errors import BlinkError, InvalidInputError
from blink_oauth_keeper import GrantKey, Note, Record, State, TokenStore
from blink_oauth_keeper.errors import SchemaError, SealError, StoreError
from blink_oauth_keeper.policy import needs_attention

from .check import Check, failed, passed, warning
from .checks_local import file_check, private_file_check
from .errors import CommandError

__all__ = ["storage_checks"]

STORE, SCHEMA, WRITABLE, KEYS = "store", "store_schema", "store_writable", "store_keys"
REFUSALS, NOTICES = "store_refusals", "store_notices"
PAGE = 500
NOTICES_READ = 1_000
LATE_AFTER = timedelta(hours=1)
"""The age at which a notice that is not delivered is reported."""

REMEDIES = {
    "SQLITE_BUSY": "Find the process that holds the file open for long, and end it; then look "
    "again.",
    "SQLITE_READONLY": "Make file and folder writable for the user of this process, and mount the "
    "disk for writing.",
    "SQLITE_CANTOPEN": "Make the folder accessible to the user of this process.",
    "SQLITE_FULL": "Make room on the disk.",
    "SQLITE_NOTADB": "Name another file: this one is no SQLite database.",
    "SQLITE_CORRUPT": "Restore the file from a backup, and look at the disk.",
    "25006": "Name the primary server of the database: this one takes no changes.",
    "28P01": "Correct the password in the database's URL.",
    "3D000": "Correct the database's name, or create it.",
    "42501": "Grant the role of the store all rights on its tables.",
}
DEFAULT_REMEDY = "Start the database or give its right address, and look into its log."


def storage_checks(
    client_id: str,
    open_store: Callable[[], TokenStore],
    *,
    path: Path | None,
    keys_file: Path | None,
    new_name: Callable[[], str],
    free_bytes: Callable[[Path], int],
    now: datetime,
) -> Iterator[Check]:
    """Check the store without changing it.

    Args:
        client_id: The client whose records are checked.
        open_store: Opens the store.
        path: The store's file, or None if it is not a file.
        keys_file: The file of the store's keys, or None if they are not in a file.
        new_name: Returns a random name, for a grant that does not exist.
        free_bytes: Returns the free bytes of the disk of a folder.
        now: The current time, timezone-aware.
    """
    if path is not None:
        yield file_check(path, free_bytes)
        if not path.exists() or path.stat().st_size == 0:
            yield warning(
                STORE,
                f"There is no store {path}: the first login creates it.",
                "Log in, or run blink-oauth store init. If there should be one already, correct "
                "--store (BLINK_STORE).",
            )
            return
    if keys_file is not None:
        yield from private_file_check("store_keys_file", keys_file)
    try:
        store = open_store()
    except CommandError as error:
        yield failed(STORE, error.what, error.do)
    except InvalidInputError as error:
        yield failed(STORE, str(error), "Correct the store's address or its keys.")
    except StoreError as error:
        yield failed(STORE, str(error), _remedy(error))
    except (BlinkError, OSError, ImportError) as error:
        yield failed(STORE, f"It cannot be opened: {error}", "Correct what is named.")
    else:
        with closing(store):
            yield from _store_checks(store, client_id, new_name, now)


def _store_checks(
    store: TokenStore, client_id: str, new_name: Callable[[], str], now: datetime
) -> Iterator[Check]:
    try:
        store.records(client_id, limit=1)
    except SchemaError as error:
        yield passed(STORE, "It can be reached.")
        yield failed(
            SCHEMA,
            str(error),
            "Update blink-oauth on this machine if the tables are newer; otherwise bring the "
            "tables up to date.",
        )
        return
    except StoreError as error:
        yield failed(STORE, str(error), _remedy(error))
        return
    yield passed(STORE, "It can be reached and read.")
    yield passed(SCHEMA, "Its tables are those of this version.")
    yield _writable_check(store, client_id, new_name)
    yield _keys_check(store, client_id)
    yield from _refusals_check(store, client_id)
    yield from _notices_check(store, client_id, now)


def _writable_check(store: TokenStore, client_id: str, new_name: Callable[[], str]) -> Check:
    try:
        # The update needs the right to write, but matches no row.
        store.release(
            _absent_record(client_id, new_name()),
            state=State.ACTIVE,
            attempts=0,
            pause=0.0,
            error=None,
            note=Note(event="doctor"),
        )
    except StoreError as error:
        return failed(WRITABLE, str(error), _remedy(error))
    return passed(WRITABLE, "It takes changes.")


def _absent_record(client_id: str, name: str) -> Record:
    long_ago = datetime.fromtimestamp(0, UTC)
    return Record(
        key=GrantKey(client_id, Grant("nowhere", f"nobody-{name}"[:64])),
        generation=-1,
        consent=-1,
        state=State.REVOKED,
        token=None,
        issued_at=long_ago,
        idle_until=None,
        updated_at=long_ago,
    )


def _keys_check(store: TokenStore, client_id: str) -> Check:
    total, faults = 0, list[SealError]()
    try:
        for record in _records(store, client_id):
            total += 1
            faults += _seal_faults(store, record)
        older = _older_seals(store)
    except StoreError as error:
        return failed(KEYS, str(error), _remedy(error))
    if faults:
        return failed(
            KEYS,
            f"{len(faults)} of {total} records cannot be opened with the keys at hand. {faults[0]}",
            "Give the missing key back, after the others. If no key is missing, restore the rows "
            "from a backup or ask those customers for a new consent.",
        )
    if older:
        return warning(
            KEYS,
            f"{older} stored tokens are not sealed with the first key.",
            "Run blink-oauth keys seal, and keep the older keys until it has ended.",
        )
    return passed(KEYS, f"The keys at hand open all {total} records of {client_id}.")


def _refusals_check(store: TokenStore, client_id: str) -> Iterator[Check]:
    """Warn about grants that need a person's attention; without one there is nothing to report."""
    try:
        refused = sum(needs_attention(record) for record in _records(store, client_id))
    except StoreError:
        return  # The check of the keys has read the same records, and reports it.
    if refused:
        yield warning(
            REFUSALS,
            f"The bank has refused each refresh of {refused} grants for more than a day, for a "
            "reason other than the refresh token.",
            "Look at blink-oauth status, and quote the correlation ids to the bLink support.",
        )


def _notices_check(store: TokenStore, client_id: str, now: datetime) -> Iterator[Check]:
    """Warn about notices that nothing delivers; without one there is nothing to report."""
    try:
        entries = store.notices(client_id, limit=NOTICES_READ)
    except StoreError as error:
        yield failed(NOTICES, str(error), _remedy(error))
        return
    dead = sum(entry.is_dead for entry in entries)
    late = sum(not entry.is_dead and now - entry.notice.at > LATE_AFTER for entry in entries)
    if dead or late:
        yield warning(
            NOTICES,
            f"Notices that are not delivered: {late} are older than an hour, {dead} are dead.",
            "Look at blink-oauth notices list. keep-alive delivers them to the receiver that "
            "BLINK_WEBHOOK_URL names; for dead ones, run blink-oauth notices retry first.",
        )


def _records(store: TokenStore, client_id: str) -> Iterator[Record]:
    after: GrantKey | None = None
    while page := store.records(client_id, after=after, limit=PAGE):
        yield from page
        after = page[-1].key


def _seal_faults(store: TokenStore, listed: Record) -> list[SealError]:
    try:
        store.load(listed.key)
    except SealError as error:
        return [error]
    return []


def _older_seals(store: TokenStore) -> int:
    # Only the SQL store seals; importing its class would import a database library needlessly.
    count: Callable[[], int] | None = getattr(store, "count_older_seals", None)
    return count() if count else 0


def _remedy(error: StoreError) -> str:
    # The error's text has the class of the database's error, then the database's own code.
    return next(
        (remedy for code, remedy in REMEDIES.items() if f", {code}" in str(error)), DEFAULT_REMEDY
    )

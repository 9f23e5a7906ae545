"""Keys change while stores are in use: no caller fails, and no pair is lost."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path

import pytest
from attrs import define
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Engine, create_engine, select

from blink_oauth.tokens import Secret
from blink_oauth_keeper import (
    EnvironmentKeys,
    KeyFile,
    LiteralKeys,
    Origin,
    Record,
    SealError,
    SqlTokenStore,
    State,
)
from blink_oauth_keeper.store.keys import Key, KeyProvider
from blink_oauth_keeper.store.sealing import key_id
from blink_oauth_keeper.store.sql_tables import grants
from blink_oauth_testing.store_contract.harness import (
    ISSUED,
    ManualClock,
    days,
    due,
    grant_key,
    note,
    pair,
    run_concurrently,
)

OLD, NEW, OTHER = (SqlTokenStore.new_key() for _ in range(3))
A = grant_key("a")
CALLERS = 20
INTERVAL = 3.0
"""Seconds after which the provider is asked again for the same key."""


class ChangingKeys(KeyProvider):
    """Keys that a test changes; it counts the questions for all of them."""

    def __init__(self, *keys: Key) -> None:
        self.now: Sequence[Key] = keys
        self.asked = 0
        self.error: Exception | None = None

    def current(self) -> Key:
        if self.error is not None:
            raise self.error
        return self.now[0]

    def keys(self) -> Sequence[Key]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.now


@define(eq=False)
class Nodes:
    """Stores of several nodes on one database."""

    engine: Engine
    clock: ManualClock
    seconds: float = 0.0

    def store(self, keys: Sequence[Key] | KeyProvider) -> SqlTokenStore:
        """Open the database with these keys."""
        return SqlTokenStore(
            self.engine, keys=keys, clock=self.clock, monotonic=lambda: self.seconds
        )

    def key_ids(self) -> set[str]:
        """Return the ids of the keys that the pairs are sealed with."""
        with self.engine.connect() as connection:
            return {row.key_id for row in connection.execute(select(grants.c.key_id))}


@pytest.fixture
def nodes(database_url: str) -> Iterator[Nodes]:
    """Return a database of each kind, with its tables."""
    own = SqlTokenStore(database_url, keys=[OLD])
    own.create_schema()
    own.close()
    wait = {"timeout": 30} if database_url.startswith("sqlite") else {}
    made = Nodes(create_engine(database_url, pool_size=CALLERS, connect_args=wait), ManualClock())
    yield made
    made.engine.dispose()


def put(store: SqlTokenStore, name: str = "a", pair_name: str = "") -> Record:
    """Store a pair for the grant with this username."""
    return store.put(
        grant_key(name),
        pair(pair_name or name),
        issued_at=ISSUED,
        idle_until=ISSUED + days(1),
        note=note(),
    )


def refresh(store: SqlTokenStore, name: str) -> Record:
    """Read a grant, claim it and settle a new pair, as a caller does; return the record."""
    record = store.load(grant_key(name))
    assert record is not None
    claim = store.claim(record, owner=f"owner-{name}", ttl=60)
    assert claim is not None
    settlement = store.settle(
        claim,
        pair(f"{name}-{claim.generation}"),
        issued_at=ISSUED,
        idle_until=ISSUED + days(1),
        note=note(),
    )
    assert settlement.stored
    assert settlement.record is not None
    return settlement.record


TURNS = [count() for _ in range(CALLERS)]


def call_all(stores: Sequence[SqlTokenStore]) -> None:
    """Make 20 callers read their grants at every node at once; every fourth refreshes its own.

    At the next call the next quarter of them refreshes, each at another node.
    """

    def call(number: int) -> None:
        turn, key = next(TURNS[number]), grant_key(f"customer-{number}")
        if (turn + number) % 4 == 0:
            refresh(stores[(turn + number // 4) % len(stores)], f"customer-{number}")
        records = [store.load(key) for store in stores]
        assert records[0] is not None
        assert records == records[:1] * len(stores)

    run_concurrently(CALLERS, call)


# A rolling deploy


def documented_steps() -> list[list[Secret]]:
    """Return the keys to deploy in each step of a rotation, as the document says."""
    document = (Path(__file__).parents[3] / "docs" / "operations.md").read_text("utf-8")
    steps = re.findall(r"^\d\. .*keys=\[([a-z, ]+)\]", document, re.MULTILINE)
    assert len(steps) == 3
    return [[{"old": OLD, "new": NEW}[name] for name in step.split(", ")] for step in steps]


def test_in_a_rolling_deploy_no_caller_fails_at_any_step(nodes: Nodes) -> None:
    stores = [nodes.store([OLD]) for _ in range(3)]
    for number in range(CALLERS):
        put(stores[0], f"customer-{number}")
    *steps, last = documented_steps()
    for keys in steps:
        for node in range(3):
            call_all(stores)
            stores[node] = nodes.store(keys)
    call_all(stores)
    stores[0].rotate_keys()
    call_all(stores)
    assert [store.count_older_seals() for store in stores] == [0, 0, 0]
    for node in range(3):
        stores[node] = nodes.store(last)
        call_all(stores)
    assert nodes.key_ids() == {key_id(NEW)}


def write(file: Path, *keys: Secret) -> None:
    """Replace a key file, as `blink-oauth keys` does."""
    new = file.with_name("new")
    new.write_text("".join(f"{key.reveal()}\n" for key in keys), "ascii")
    new.replace(file)


def test_processes_that_share_a_key_file_follow_a_rotation(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    write(file, OLD)
    running = [nodes.store(KeyFile(file)) for _ in range(3)]
    for number in range(CALLERS):
        put(running[0], f"customer-{number}")
    for keys in ((OLD, NEW), (NEW, OLD)):
        write(file, *keys)
        started = nodes.store(KeyFile(file))
        call_all([*running, started])
        started.rotate_keys()
        call_all([*running, started])
    assert running[0].count_older_seals() == 0
    write(file, NEW)
    call_all(running)
    assert nodes.key_ids() == {key_id(NEW)}


def test_a_running_process_opens_what_a_newer_process_has_sealed(
    nodes: Nodes, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    write(file, OLD)
    running = nodes.store(KeyFile(file))
    # The newer process is the first one that reads the new key, and it seals with it at once.
    write(file, NEW, OLD)
    newer = nodes.store(KeyFile(file))
    record = put(newer)
    assert running.load(A) == record
    assert refresh(running, "a") == newer.load(A)
    assert nodes.key_ids() == {key_id(NEW)}


def test_a_new_consent_is_sealed_with_the_current_first_key_of_the_file(
    nodes: Nodes, tmp_path: Path
) -> None:
    # A store that puts only never meets an unknown key, and must not go on with the old one.
    file = tmp_path / "keys"
    write(file, OLD)
    running = nodes.store(KeyFile(file))
    write(file, NEW, OLD)
    put(running)
    assert nodes.key_ids() == {key_id(NEW)}


def test_due_grants_are_found_that_a_newer_process_has_sealed(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    write(file, OLD)
    running = nodes.store(KeyFile(file))
    write(file, OLD, NEW)
    put(nodes.store([NEW]))
    assert running.unreadable(due()) == 0
    assert [record.key for record in running.due(due(), limit=10)] == [A]
    assert [c.key for c in running.claim_due(due(), owner="fake-owner", ttl=60, limit=1)] == [A]


# An unknown key


def test_the_provider_is_asked_again_for_an_unknown_key(nodes: Nodes) -> None:
    provider = ChangingKeys(OLD)
    store = nodes.store(provider)
    record = put(nodes.store([NEW]))
    provider.now = [OLD, NEW]
    asked = provider.asked
    assert store.load(A) == record
    assert store.load(A) == record
    assert provider.asked == asked + 1
    # It still seals with its own first key.
    refresh(store, "a")
    assert nodes.key_ids() == {key_id(OLD)}


def test_for_one_unknown_key_the_provider_is_asked_every_few_seconds_only(nodes: Nodes) -> None:
    provider = ChangingKeys(OLD)
    store = nodes.store(provider)
    record = put(nodes.store([NEW]))
    asked = provider.asked
    for _ in range(5):
        with pytest.raises(SealError, match="not among those given"):
            store.load(A)
    assert provider.asked == asked + 1
    provider.now = [OLD, NEW]
    nodes.seconds += INTERVAL - 0.1
    with pytest.raises(SealError):
        store.load(A)
    nodes.seconds += 0.1
    assert store.load(A) == record


def test_a_key_that_stays_unknown_delays_no_question_for_another(nodes: Nodes) -> None:
    provider = ChangingKeys(OLD)
    store = nodes.store(provider)
    put(nodes.store([OTHER]), "other")
    with pytest.raises(SealError):
        store.load(grant_key("other"))
    record = put(nodes.store([NEW]))
    provider.now = [OLD, NEW]
    assert store.load(A) == record


def test_all_of_many_callers_that_meet_an_unknown_key_at_once_succeed(nodes: Nodes) -> None:
    provider = ChangingKeys(OLD)
    store = nodes.store(provider)
    record = put(nodes.store([NEW]))
    provider.now = [OLD, NEW]
    assert run_concurrently(CALLERS, lambda _: store.load(A)) == [record] * CALLERS


def test_journal_entries_under_an_unknown_key_are_opened_too(nodes: Nodes) -> None:
    provider = ChangingKeys(OLD)
    store, newer = nodes.store(provider), nodes.store([NEW, OLD])
    newer.journal(put(store), pair("late"), origin=Origin.SUPERSEDED)
    assert list(store.journal_entries(A)) == []
    provider.now = [OLD, NEW]
    nodes.seconds += INTERVAL
    assert [entry.token for entry in store.journal_entries(A)] == [pair("late")]


def test_a_pair_under_a_missing_key_is_not_passed_over_by_a_salvage(nodes: Nodes) -> None:
    provider = ChangingKeys(OLD)
    store, newer = nodes.store(provider), nodes.store([NEW, OLD])
    claim = store.claim(put(store), owner="fake-owner", ttl=60)
    assert claim is not None
    newer.journal(claim, pair("valid"), origin=Origin.SUPERSEDED)
    with pytest.raises(SealError, match="not among those given"):
        store.salvage(claim, note=note())
    provider.now = [OLD, NEW]
    nodes.seconds += INTERVAL
    salvaged = store.salvage(claim, note=note())
    assert salvaged is not None
    assert salvaged.token == pair("valid")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("fake-key-in-a-message"), OSError("fake-key-in-a-message"), None],
    ids=["error", "system error", "invalid keys"],
)
def test_a_store_goes_on_with_its_keys_if_the_provider_fails(
    nodes: Nodes, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    provider = ChangingKeys(OLD)
    store = nodes.store(provider)
    if error is None:
        provider.now = ["fake-key-that-is-none"]
    provider.error = error
    assert refresh(store, put(store).key.grant.username) == store.load(A)
    put(nodes.store([NEW]), "b")
    with pytest.raises(SealError):
        store.load(grant_key("b"))
    assert nodes.key_ids() == {key_id(OLD), key_id(NEW)}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "The keys known so far stay in use" in caplog.text
    assert "fake-key" not in caplog.text


def test_a_key_that_the_provider_drops_opens_until_the_process_ends(nodes: Nodes) -> None:
    provider = ChangingKeys(OLD)
    store = nodes.store(provider)
    record = put(store)
    provider.now = [NEW]
    put(store, "b")
    assert store.load(A) == record
    assert nodes.key_ids() == {key_id(OLD), key_id(NEW)}


# What is read after a write


def test_a_pair_is_settled_although_the_record_is_sealed_anew_meanwhile(nodes: Nodes) -> None:
    store, newer = nodes.store([OLD]), nodes.store([NEW, OLD])
    claim = store.claim(put(store), owner="fake-owner", ttl=60)
    assert claim is not None
    for _ in range(2):
        settlement = store.settle(
            claim, pair("late"), issued_at=ISSUED, idle_until=ISSUED, note=note()
        )
        # The first result is lost, and the pair is sealed anew before the second try.
        newer.rotate_keys()
    assert settlement.record is not None
    assert settlement.record.error == "SealError"
    record = newer.load(A)
    assert record is not None
    assert (record.token, record.state) == (pair("late"), State.ACTIVE)


def test_a_superseded_pair_is_journaled_although_the_record_is_under_an_unknown_key(
    nodes: Nodes,
) -> None:
    store, newer = nodes.store([OLD]), nodes.store([NEW, OLD])
    claim = store.claim(put(store), owner="fake-owner", ttl=60)
    assert claim is not None
    put(newer, pair_name="again")
    store.settle(claim, pair("late"), issued_at=ISSUED, idle_until=ISSUED, note=note())
    store.journal(claim, pair("other"), origin=Origin.ERROR)
    tokens = [entry.token for entry in newer.journal_entries(A)]
    assert tokens == [pair("other"), pair("late"), pair("a")]


def test_a_pair_is_salvaged_although_the_refused_one_is_sealed_anew_meanwhile(
    nodes: Nodes,
) -> None:
    store, both = nodes.store([OLD]), nodes.store([NEW, OLD])
    claim = store.claim(put(store), owner="fake-owner", ttl=60)
    assert claim is not None
    both.rotate_keys()
    store.journal(claim, pair("valid"), origin=Origin.SUPERSEDED)
    salvaged = store.salvage(claim, note=note())
    assert salvaged is not None
    assert salvaged.token == pair("valid")
    assert [(e.origin, e.token) for e in both.journal_entries(A)] == [(Origin.REFUSED, pair("a"))]


def test_a_pair_of_a_new_consent_is_stored_although_the_old_one_is_under_an_unknown_key(
    nodes: Nodes,
) -> None:
    put(nodes.store([NEW]))
    record = put(nodes.store([OLD]), pair_name="again")
    assert (record.token, record.consent) == (pair("again"), 2)


# Due records that no key opens


def test_records_under_unknown_keys_are_counted_and_not_those_that_open(nodes: Nodes) -> None:
    store = nodes.store([OLD])
    for name, keys in (("a", [NEW]), ("b", [NEW]), ("c", [OTHER]), ("d", [OLD])):
        put(nodes.store(keys), name)
    assert store.unreadable(due()) == 3
    assert store.unreadable(due(within=0)) == 0
    assert store.unreadable(due(targets=["IIDX00001"])) == 0
    assert store.unreadable(due(except_targets=["IIDX99999"])) == 0
    assert store.unreadable(due(client="CIDX0000000003")) == 0
    assert nodes.store([OLD, NEW]).unreadable(due()) == 1
    assert nodes.store([OLD, NEW, OTHER]).unreadable(due()) == 0


def test_a_record_without_a_pair_or_after_a_revocation_is_not_unreadable(nodes: Nodes) -> None:
    newer = nodes.store([NEW])
    put(newer)
    revoked = newer.mark_revoked(A, note=note())
    assert revoked is not None
    assert nodes.store([OLD]).unreadable(due()) == 0
    assert newer.erase(revoked, journaled=[], note=note())
    assert nodes.store([OLD]).unreadable(due()) == 0


def test_a_record_that_another_process_has_claimed_is_unreadable_too(nodes: Nodes) -> None:
    newer = nodes.store([NEW])
    assert newer.claim(put(newer), owner="fake-owner", ttl=60) is not None
    assert nodes.store([OLD]).unreadable(due(attempts=1)) == 1


def test_an_altered_record_is_counted_once_a_claim_has_failed_to_open_it(nodes: Nodes) -> None:
    store = nodes.store([OLD])
    put(store)
    with nodes.engine.begin() as connection:
        (sealed,) = connection.execute(select(grants.c.sealed)).one()
        connection.execute(grants.update().values(sealed=f"{sealed[:-8]}AAAAAAAA"))
    assert store.claim_due(due(), owner="fake-owner", ttl=60, limit=1) == []
    assert store.unreadable(due()) == 1
    with nodes.engine.begin() as connection:
        connection.execute(grants.update().values(sealed=sealed))
    assert store.unreadable(due()) == 0


# One key, written in several ways

FORMS = {
    "line end": "{}\n",
    "line end of Windows": "{}\r\n",
    "spaces": " {}\t",
    "byte order mark": "\ufeff{}",
}


def other_forms(key: Secret) -> dict[str, Key]:
    """Return a key written in other ways."""
    text = key.reveal()
    forms: dict[str, Key] = {
        "bytes": text.encode(),
        "bytes with a byte order mark": f"\ufeff{text}\n".encode(),
        "without padding": text.rstrip("="),
        "standard alphabet": text.replace("-", "+").replace("_", "/"),
        "secret": Secret(f"{text}\n"),
    }
    for name, form in FORMS.items():
        forms[name] = form.format(text)
    return forms


KEY_IN_BOTH_ALPHABETS = Secret("-_" * 21 + "8=")


@pytest.mark.parametrize("name", other_forms(KEY_IN_BOTH_ALPHABETS))
def test_a_key_is_the_same_key_however_it_is_written(nodes: Nodes, name: str) -> None:
    key = KEY_IN_BOTH_ALPHABETS
    form = other_forms(key)[name]
    record = put(nodes.store([form]))
    assert nodes.store([key]).load(A) == record
    assert nodes.key_ids() == {key_id(key)} == {key_id(form)}
    both = nodes.store([form, key])
    assert both.count_older_seals() == 0
    assert both.fingerprint("fake") == nodes.store([key]).fingerprint("fake")


@pytest.mark.parametrize("form", ["{}\n", "\n {}"])
def test_pairs_that_an_earlier_version_has_stored_under_another_id_still_open(
    nodes: Nodes, form: str
) -> None:
    # Earlier versions derived the id from the key as it was written.
    written = form.format(OLD.reveal())
    store = nodes.store([written])
    record = put(store)
    with nodes.engine.begin() as connection:
        connection.execute(grants.update().values(key_id=id_of_earlier_versions(written)))
    assert store.load(A) == record
    assert store.unreadable(due()) == 0
    assert [each.key for each in store.due(due(), limit=1)] == [A]
    assert (store.count_older_seals(), store.rotate_keys()) == (1, 1)
    assert nodes.store([OLD]).load(A) == record


def id_of_earlier_versions(written: str) -> str:
    """Return the id that earlier versions gave to a key that was written like this."""
    derivation = HKDF(SHA256(), length=32, salt=None, info=b"blink-oauth key id")
    return derivation.derive(written.encode()).hex()[:16]


# The providers


def texts(keys: Sequence[Key]) -> list[str]:
    """Return the texts of keys that are secrets."""
    return [key.reveal() for key in keys if isinstance(key, Secret)]


def test_the_first_key_of_each_provider_is_the_current_one(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    write(file, NEW, OLD)
    value = f"{NEW.reveal()}, {OLD.reveal()}"
    for provider in (
        LiteralKeys([NEW, OLD]),
        KeyFile(file),
        KeyFile(str(file)),
        EnvironmentKeys("FAKE_KEYS", {"FAKE_KEYS": value}),
    ):
        assert list(provider.keys()) == [NEW, OLD]
        assert provider.current() == NEW
        assert not [key for key in (OLD, NEW) if key.reveal() in repr(provider)]


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\r", " ", "\n\n"])
def test_lines_of_a_key_file_may_end_in_any_way(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "keys"
    content = separator.join(chain(texts([NEW, OLD]), [""]))
    file.write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert list(KeyFile(file).keys()) == [NEW, OLD]


@pytest.mark.parametrize("content", [None, b"", b"\xef\xbb\xbf\r\n", b"\xff\xff"])
def test_a_store_without_a_key_does_not_open(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"No key can be read from {file}"):
        SqlTokenStore(f"sqlite:///{tmp_path}/tokens.db", keys=KeyFile(file))
    with pytest.raises(ValueError, match="FAKE_KEYS has no key"):
        SqlTokenStore(f"sqlite:///{tmp_path}/tokens.db", keys=EnvironmentKeys("FAKE_KEYS", {}))


class CurrentMissing(LiteralKeys):
    """A provider that cannot say which key seals."""

    def current(self) -> Key:
        return "fake-key-that-is-none"


def test_a_store_whose_current_key_is_invalid_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Fernet key") as caught:
        SqlTokenStore(f"sqlite:///{tmp_path}/tokens.db", keys=CurrentMissing([OLD]))
    assert "fake" not in str(caught.value)


def test_a_current_key_that_is_not_among_the_keys_seals_and_opens(nodes: Nodes) -> None:
    provider = ChangingKeys(OLD)
    store = nodes.store(provider)
    provider.now = [NEW]
    record = put(store)
    assert nodes.key_ids() == {key_id(NEW)}
    assert store.load(A) == record


def test_a_file_that_is_missing_or_half_written_changes_no_key(
    nodes: Nodes, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    write(file, OLD)
    store = nodes.store(KeyFile(file))
    for content in (None, b"", OLD.reveal()[:20].encode(), b"\xff"):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        put(store, pair_name=f"{content!r}")
    assert nodes.key_ids() == {key_id(OLD)}
    write(file, NEW, OLD)
    put(store, pair_name="again")
    assert nodes.key_ids() == {key_id(NEW)}

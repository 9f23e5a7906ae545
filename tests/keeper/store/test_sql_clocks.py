"""Leases and pauses where clocks are set, and machines sleep and reboot."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from attrs import evolve
from sqlalchemy import create_engine, select

from blink_oauth_keeper import Record, SqlTokenStore, State
from blink_oauth_keeper.clocks import boot_clock
from blink_oauth_keeper.store.protocol import LONGEST_LEASE, LONGEST_PAUSE
from blink_oauth_keeper.store.sql_tables import clock
from blink_oauth_testing.store_contract.harness import ISSUED, KEY, days, due, grant_key, note, pair
from keeper.store.machine import Machine
from keeper.store.programs import finish, start

FERNET_KEY = SqlTokenStore.new_key()
LEASE = 25.0
HOUR = 3_600.0
STEPS = [HOUR, -HOUR, 86_400.0, -86_400.0, 2.0, -2.0]


@pytest.fixture(params=["first boot", ""], ids=["boot clock", "no boot clock"])
def machine(database_url: str, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Yield a machine with an SQLite file, and one with PostgreSQL."""
    machine = Machine(database_url, FERNET_KEY, boot=request.param)
    yield machine
    machine.close()


@pytest.fixture
def sqlite_machine(tmp_path: Path) -> Iterator[Machine]:
    """Yield a machine with an SQLite file."""
    machine = Machine(f"sqlite:///{tmp_path / 'tokens.db'}", FERNET_KEY)
    yield machine
    machine.close()


def put(store: SqlTokenStore, name: str = "customer") -> Record:
    return store.put(
        grant_key(name), pair(name), issued_at=ISSUED, idle_until=ISSUED + days(1), note=note()
    )


def read(store: SqlTokenStore) -> Record:
    record = store.load(KEY)
    assert record is not None
    return record


def claim(store: SqlTokenStore) -> Record | None:
    """Claim the grant of `KEY`, as a process does that reads it first."""
    return store.claim(read(store), owner=uuid4().hex, ttl=LEASE)


def pause(store: SqlTokenStore, seconds: float) -> None:
    claimed = claim(store)
    assert claimed is not None
    assert store.release(
        claimed, state=State.ACTIVE, attempts=0, pause=seconds, error=None, note=note()
    )


# SQLite: no step of the wall clock moves a lease.


@pytest.mark.parametrize("step", STEPS)
def test_a_lease_in_a_file_lasts_its_seconds_whatever_the_wall_clock_does(
    sqlite_machine: Machine, step: float
) -> None:
    first, second = sqlite_machine.store(), sqlite_machine.store()
    put(first)
    assert claim(first) is not None
    sqlite_machine.elapse(5)
    sqlite_machine.step(step)
    for store in (first, second, sqlite_machine.store()):
        assert read(store).lease_left == pytest.approx(LEASE - 5, abs=0.01)
        assert claim(store) is None
    sqlite_machine.elapse(LEASE - 5.1)
    assert claim(second) is None
    sqlite_machine.elapse(0.2)
    assert claim(second) is not None


@pytest.mark.parametrize("step", STEPS)
def test_a_pause_in_a_file_lasts_its_seconds_whatever_the_wall_clock_does(
    sqlite_machine: Machine, step: float
) -> None:
    store = sqlite_machine.store()
    put(store)
    pause(store, 60)
    sqlite_machine.step(step)
    for process in (store, sqlite_machine.store()):
        assert read(process).pause_left == pytest.approx(60, abs=0.01)
        assert claim(process) is None
    sqlite_machine.elapse(60.1)
    assert claim(store) is not None


@pytest.mark.parametrize("step", STEPS)
def test_due_grants_in_a_file_are_claimed_when_their_leases_have_ended(
    sqlite_machine: Machine, step: float
) -> None:
    store = sqlite_machine.store()
    put(store)
    assert claim(store) is not None
    sqlite_machine.step(step)
    assert store.claim_due(due(attempts=1), owner="other", ttl=LEASE, limit=9) == []
    assert store.due(due(attempts=1), limit=9) == []
    sqlite_machine.elapse(LEASE + 0.1)
    assert len(store.due(due(attempts=1), limit=9)) == 1
    assert len(store.claim_due(due(attempts=1), owner="other", ttl=LEASE, limit=9)) == 1


def test_processes_that_start_before_and_after_a_step_agree(sqlite_machine: Machine) -> None:
    before = sqlite_machine.store()
    put(before)
    sqlite_machine.step(HOUR)
    after = sqlite_machine.store()
    assert claim(after) is not None
    assert claim(before) is None
    assert read(before).lease_left == read(after).lease_left == pytest.approx(LEASE, abs=0.01)
    sqlite_machine.step(-2 * HOUR)
    sqlite_machine.elapse(LEASE + 0.1)
    assert claim(before) is not None
    assert claim(after) is None


def test_a_sleep_of_the_machine_counts_as_time(sqlite_machine: Machine) -> None:
    store = sqlite_machine.store()
    put(store)
    assert claim(store) is not None
    # The boot clock counts the sleep, and the wall clock is right again.
    sqlite_machine.elapse(HOUR)
    assert read(store).lease_left == 0
    assert claim(store) is not None


def test_times_for_people_follow_the_wall_clock(machine: Machine) -> None:
    store = machine.store()
    before = put(store)
    machine.step(HOUR)
    assert claim(store) is not None
    after = read(store)
    assert timedelta(hours=1) <= after.updated_at - before.updated_at < timedelta(hours=1.1)
    store.mark_revoked(KEY, note=note())
    newest, oldest = store.history(KEY)
    assert timedelta(hours=1) <= newest.at - oldest.at < timedelta(hours=1.1)


NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
SOON = "strftime('%Y-%m-%d %H:%M:%f000', 'now', '25 seconds')"


def test_a_process_of_an_older_version_agrees_if_no_clock_is_set(sqlite_machine: Machine) -> None:
    machine = sqlite_machine
    store = machine.store()
    put(store)
    leased = f"SELECT lease_until > {NOW} FROM blink_oauth_grants"
    assert claim(store) is not None
    machine.elapse(LEASE - 0.1)
    assert machine.scalar(leased) == 1
    machine.elapse(0.2)
    assert machine.scalar(leased) == 0
    machine.execute(f"UPDATE blink_oauth_grants SET lease_until = {SOON}")
    assert read(machine.store()).lease_left == pytest.approx(25, abs=0.01)
    assert claim(store) is None
    machine.elapse(25.1)
    assert claim(store) is not None


def test_a_machine_without_an_identity_of_its_boot_uses_the_wall_clock(
    sqlite_machine: Machine,
) -> None:
    sqlite_machine.boot = ""
    store = sqlite_machine.store()
    put(store)
    assert claim(store) is not None
    sqlite_machine.step(-HOUR)
    assert 0 < read(store).lease_left <= LONGEST_LEASE
    sqlite_machine.elapse(LONGEST_LEASE + 1)
    assert claim(store) is not None
    sqlite_machine.step(HOUR)
    assert claim(store) is not None


@pytest.mark.parametrize("step", [0.0, *STEPS])
def test_a_reboot_gives_a_lease_its_time_again_and_not_more(
    sqlite_machine: Machine, step: float
) -> None:
    store = sqlite_machine.store()
    put(store)
    sqlite_machine.step(-HOUR)
    assert claim(store) is not None
    sqlite_machine.reboot(step=step)
    store = sqlite_machine.store()
    assert claim(store) is None
    sqlite_machine.elapse(LEASE - 6)
    assert claim(sqlite_machine.store()) is None
    sqlite_machine.elapse(LONGEST_LEASE - LEASE + 6.1)
    assert claim(store) is not None


def test_a_reboot_with_a_wrong_clock_shortens_no_later_lease(sqlite_machine: Machine) -> None:
    put(sqlite_machine.store())
    sqlite_machine.reboot(step=-50 * 365 * 86_400.0)
    store = sqlite_machine.store()
    assert claim(store) is not None
    sqlite_machine.step(50 * 365 * 86_400.0)
    assert claim(sqlite_machine.store()) is None
    sqlite_machine.elapse(LEASE + 0.1)
    assert claim(sqlite_machine.store()) is not None


def test_machines_that_share_a_file_by_mistake_have_a_row_each(sqlite_machine: Machine) -> None:
    put(sqlite_machine.store())
    other = evolve(sqlite_machine, boot="boot of a container", seconds=77.0)
    assert claim(other.store()) is not None
    assert read(sqlite_machine.store()).lease_left == pytest.approx(LEASE, abs=0.01)
    assert sqlite_machine.scalar("SELECT count(*) FROM blink_oauth_clock") == 2
    other.close()


# Both databases: what is left of a lease is never more than the lease.


def test_a_lease_whose_owner_died_ends_after_one_lease_more_if_the_clock_is_set_back(
    machine: Machine,
) -> None:
    store = machine.store()
    put(store)
    assert claim(store) is not None
    machine.step(-HOUR)
    for _ in range(3):
        assert 0 < read(store).lease_left <= LEASE
    machine.elapse(LEASE + 0.5)
    assert claim(machine.store()) is not None


def test_a_pause_ends_after_one_pause_more_if_the_clock_is_set_back(machine: Machine) -> None:
    store = machine.store()
    put(store)
    pause(store, 60)
    machine.step(-HOUR)
    assert 50 < read(store).pause_left <= 60
    assert claim(store) is None
    machine.elapse(60.5)
    assert claim(machine.store()) is not None


@pytest.mark.parametrize("look", ["claim_due", "due"])
def test_due_grants_that_nobody_reads_are_claimed_after_the_clock_was_set_back(
    machine: Machine, look: str
) -> None:
    store = machine.store()
    for name in ("leased", "paused"):
        put(store, name)
    [leased, paused] = store.claim_due(due(), owner="killed", ttl=LEASE, limit=9)
    assert store.release(
        paused, state=State.UNCERTAIN, attempts=1, pause=20, error=None, note=note()
    )
    machine.step(-HOUR)
    if look == "due":
        assert store.due(due(attempts=1), limit=9) == []
    else:
        assert store.claim_due(due(attempts=1), owner="other", ttl=LEASE, limit=9) == []
    machine.elapse(LEASE + 0.5)
    found = store.claim_due(due(attempts=1), owner="other", ttl=LEASE, limit=9)
    assert {claimed.key for claimed in found} == {leased.key, paused.key}


AHEAD = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S', 'now', '+{seconds} seconds')",
    "postgresql": "clock_timestamp() + interval '{seconds} seconds'",
}


def set_end(machine: Machine, column: str, seconds: int) -> None:
    """Set the end of a lease or pause without the store."""
    end = AHEAD["sqlite" if machine.is_sqlite else "postgresql"].format(seconds=seconds)
    machine.execute(f"UPDATE blink_oauth_grants SET {column} = {end}")


@pytest.mark.parametrize("seconds", [3_600, 40, 86_400 * 3_650])
def test_an_end_that_is_too_late_is_replaced_by_that_of_the_longest_lease(
    machine: Machine, seconds: int
) -> None:
    store = machine.store()
    put(store)
    assert claim(store) is not None
    set_end(machine, "lease_until", seconds)
    [listed] = store.records(KEY.client_id)
    assert 25 < listed.lease_left <= LONGEST_LEASE
    assert 25 < read(store).lease_left <= LONGEST_LEASE
    machine.elapse(LONGEST_LEASE - 5)
    assert 0 < read(store).lease_left <= 5
    machine.elapse(5.5)
    assert claim(machine.store()) is not None


def test_a_pause_is_never_longer_than_the_longest(machine: Machine) -> None:
    store = machine.store()
    put(store)
    set_end(machine, "pause_until", 86_400 * 3_650)
    assert LONGEST_PAUSE - 60 < read(store).pause_left <= LONGEST_PAUSE
    assert claim(store) is None
    machine.elapse(LONGEST_PAUSE + 1)
    assert claim(store) is not None


def test_the_end_of_a_new_lease_is_not_changed(machine: Machine) -> None:
    store, other = machine.store(), machine.store()
    put(store)
    assert claim(store) is not None
    before = read(store)
    machine.elapse(5)
    for _ in range(3):
        assert read(other).updated_at == before.updated_at
    assert 0 < read(other).lease_left <= LEASE - 5


def test_a_lease_that_is_taken_while_a_late_end_is_replaced_keeps_its_end(
    machine: Machine,
) -> None:
    claims: list[Record] = []
    other = machine.store()

    def claim_elsewhere() -> None:
        if not claims:
            assert read(other).lease_left > 0
            machine.elapse(LONGEST_LEASE + 1)
            claimed = claim(other)
            assert claimed is not None
            claims.append(claimed)

    put(other)
    assert claim(other) is not None
    set_end(machine, "lease_until", 3_600)
    read(machine.store(before_update=claim_elsewhere))
    now = read(other)
    assert (now.owner, now.attempts) == (claims[0].owner, 2)
    assert now.lease_left == pytest.approx(LEASE, abs=2)


def test_a_database_that_can_only_be_read_is_read(machine: Machine) -> None:
    put(machine.store())
    assert claim(machine.store()) is not None
    set_end(machine, "lease_until", 3_600)
    machine.boot = "a boot that is not stored"
    store = machine.store(read_only=True)
    assert 0 < read(store).lease_left <= LONGEST_LEASE
    assert store.due(due(attempts=1), limit=9) == []
    assert len(store.records(KEY.client_id)) == 1


# The boot clock of this machine.

USE = """
put("a")
from blink_oauth_keeper.clocks import boot_clock
print(json.dumps(boot_clock().boot))
"""


def test_the_processes_of_a_machine_share_its_boot_clock(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tokens.db'}"
    boots = finish(*(start(url, FERNET_KEY, USE) for _ in range(3)))
    boot = boot_clock().boot
    assert boots == [boot] * 3
    engine = create_engine(url)
    with engine.connect() as connection:
        stored = list(connection.scalars(select(clock.c.boot)))
    engine.dispose()
    assert stored == [boot] * bool(boot)

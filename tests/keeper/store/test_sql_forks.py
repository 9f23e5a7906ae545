"""Forks of a process that uses an SQLite file: what either process stores, every process sees.

SQLite keeps book of its locks for each process, and a fork copies the book: a process may then see
its own changes although the file never gets them. So the tests read the file in another process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blink_oauth_keeper import SqlTokenStore
from blink_oauth_testing.store_contract.harness import CLIENT
from keeper.store.programs import finish, start

FERNET_KEY = SqlTokenStore.new_key()

FORK = """
import signal, sqlite3, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from contextlib import closing
from sqlalchemy import create_engine
from blink_oauth_keeper.errors import StoreError

def in_child(work):
    # Runs some work in a forked child, and returns what it returns.
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(40)
        try:
            result = work()
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result = json.loads(pipe.read())
    os.waitpid(child, 0)
    return result

def stored(name, use=None):
    (use or store).put(
        grant_key(name), pair(name), issued_at=ISSUED, idle_until=ISSUED, note=note()
    )
    return name

def path_of(store):
    return repr(store).split("///")[1].rstrip("')")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that does not exist."""
    return tmp_path / "tokens.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqlTokenStore]:
    """Return a store in that file, which no fork affects."""
    store = SqlTokenStore(f"sqlite:///{path}", keys=[FERNET_KEY])
    yield store
    store.close()


def run(path: Path, program: str) -> Any:
    """Run a program that forks, and return its result."""
    [result] = finish(start(f"sqlite:///{path}", FERNET_KEY, FORK + program))
    return result


def names(store: SqlTokenStore) -> list[str]:
    """Return the customers of all stored grants."""
    return [record.key.grant.username for record in store.records(CLIENT)]


def test_every_process_sees_what_a_child_stores(store: SqlTokenStore, path: Path) -> None:
    program = """
stored("parent")
child = in_child(lambda: stored("child"))
stored("parent again")
print(json.dumps([child, names()]))
"""
    everything = ["child", "parent", "parent again"]
    assert run(path, program) == ["child", everything]
    assert names(store) == everything


def test_every_process_sees_what_a_child_stores_after_its_parent_has_closed(
    store: SqlTokenStore, path: Path
) -> None:
    program = """
stored("parent")
reading, writing = os.pipe()
waiting, ending = os.pipe()
if not os.fork():
    # The parent closes the other end of the pipe after its store.
    signal.alarm(40)
    os.close(ending)
    os.close(reading)
    os.read(waiting, 1)
    result = [stored("child"), names()]
    store.close()
    os.write(writing, json.dumps(result).encode())
    os._exit(0)
store.close()
os.close(ending)
os.close(writing)
print(os.fdopen(reading).read())
"""
    assert run(path, program) == ["child", ["child", "parent"]]
    assert names(store) == ["child", "parent"]


def test_parent_and_child_open_new_connections(path: Path) -> None:
    program = """
stored("parent")
before = len(opened)
child = in_child(lambda: (stored("child"), len(opened) - before)[1])
between = len(opened) - before
stored("parent again")
print(json.dumps([child, between, len(opened) - before]))
"""
    assert run(path, program) == [1, 0, 1]


def test_each_child_can_write_while_threads_of_the_parent_write(
    store: SqlTokenStore, path: Path
) -> None:
    program = """
stored("parent")
ended, counts = threading.Event(), [0, 0]
def write(number):
    while not ended.is_set():
        store.put(grant_key(f"thread {number}"), pair(str(counts[number])), issued_at=ISSUED,
                  idle_until=ISSUED, note=note())
        counts[number] += 1
threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
children = [in_child(lambda: stored(f"child {number}")) for number in range(8)]
ended.set()
for thread in threads:
    thread.join()
generations = [store.load(grant_key(f"thread {number}")).generation for number in range(2)]
print(json.dumps([children, generations == counts]))
"""
    children = [f"child {number}" for number in range(8)]
    assert run(path, program) == [children, True]
    assert [name for name in names(store) if name.startswith("child")] == children


def test_a_child_of_a_child_can_write(store: SqlTokenStore, path: Path) -> None:
    program = """
stored("parent")
def child():
    stored("child")
    return in_child(lambda: stored("grandchild"))
print(json.dumps([in_child(child), names()]))
"""
    everything = ["child", "grandchild", "parent"]
    assert run(path, program) == ["grandchild", everything]
    assert names(store) == everything


def test_a_child_of_multiprocessing_can_write(store: SqlTokenStore, path: Path) -> None:
    program = """
import multiprocessing
stored("parent")
process = multiprocessing.get_context("fork").Process(target=stored, args=("child",))
process.start()
process.join()
print(json.dumps([process.exitcode, names()]))
"""
    assert run(path, program) == [0, ["child", "parent"]]
    assert names(store) == ["child", "parent"]


def test_idle_connections_of_the_applications_engine_are_closed(
    store: SqlTokenStore, path: Path
) -> None:
    program = """
engine = create_engine(f"sqlite:///{path_of(store)}")
own = SqlTokenStore(engine, keys=[SqlTokenStore.new_key()])
own.create_schema()
stored("parent", own)
with engine.connect() as connection:
    connection.exec_driver_sql("SELECT 1").all()
print(json.dumps(in_child(lambda: stored("child", own))))
"""
    assert run(path, program) == "child"
    assert names(store) == ["child", "parent"]


HOLDERS = {
    "the application's engine": """
engine = create_engine(f"sqlite:///{path_of(store)}")
own = SqlTokenStore(engine, keys=[SqlTokenStore.new_key()])
own.create_schema()
holder = engine.connect()
close = holder.close
""",
    "another engine": """
own = store
other = create_engine(f"sqlite:///{path_of(store)}")
holder = other.connect()
def close():
    holder.close()
    other.dispose()
""",
    "sqlite3": """
own = store
stored("parent", own)
holder = sqlite3.connect(path_of(store))
holder.execute("SELECT count(*) FROM blink_oauth_grants").fetchone()
close = holder.close
""",
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_child_that_inherits_an_open_file_is_refused(
    store: SqlTokenStore, path: Path, holder: str
) -> None:
    program = """
reads = in_child(lambda: own.load(grant_key("parent")))
grandchild = in_child(lambda: in_child(lambda: stored("grandchild", own)))
stored("parent", own)
close()
in_child(lambda: stored("later child", own))
print(json.dumps([reads, grandchild, in_child(lambda: stored("child", own))]))
"""
    [reads, grandchild, later] = run(path, HOLDERS[holder] + program)
    for refused in (reads, grandchild):
        assert refused.startswith("StoreError: The SQLite file was open when this process was fork")
        assert "Nothing was read or changed." in refused
    # Closed before the fork, it does no harm.
    assert later == "child"
    assert names(store) == ["child", "later child", "parent"]


def test_another_file_that_is_open_does_no_harm(store: SqlTokenStore, path: Path) -> None:
    program = """
stored("parent")
holder = sqlite3.connect(path_of(store) + ".other")
holder.execute("CREATE TABLE other (x)")
print(json.dumps(in_child(lambda: stored("child"))))
"""
    assert run(path, program) == "child"
    assert names(store) == ["child", "parent"]


def test_a_fork_within_an_operation_does_not_wait_for_it(store: SqlTokenStore, path: Path) -> None:
    program = """
results = []
def fork_once(*_):
    if not results:
        results.append(None)
        results[0] = in_child(lambda: stored("child"))
stored("parent")
event.listen(Engine, "before_cursor_execute", fork_once)
stored("parent again")
print(json.dumps(results))
"""
    [refused] = run(path, program)
    assert refused.startswith("StoreError: The SQLite file was open")
    assert names(store) == ["parent", "parent again"]


def test_a_program_that_a_process_starts_does_not_disturb_it(
    store: SqlTokenStore, path: Path
) -> None:
    program = """
import subprocess
stored("parent")
subprocess.run(["true"], check=True, preexec_fn=lambda: None)
stored("parent again")
print(json.dumps(names()))
"""
    assert run(path, program) == ["parent", "parent again"]
    assert names(store) == ["parent", "parent again"]

"""Keys that a command unwraps: nothing shows them, and a store goes on without the command."""

from __future__ import annotations

import asyncio
import base64
import copy
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from blink_oauth import InvalidInputError, Secret
from blink_oauth_keeper import Key, KeyFile, KeyProvider, SealError, SqlTokenStore, WrappedKeyFile
from blink_oauth_keeper.store.key_commands import Problem, unwrapped_key, wrapped_key
from blink_oauth_keeper.store.sealing import key_id
from blink_oauth_testing.store_contract.harness import (
    ISSUED,
    days,
    grant_key,
    note,
    pair,
    run_concurrently,
)
from key_service import KeyService, is_running, spellings
from wrapper.leaks import found, serializations_of, texts_of_error

OLD, NEW = Secret("-_" * 21 + "8="), SqlTokenStore.new_key()
A, B = grant_key("a"), grant_key("b")
TIME_LIMIT = 30.0
"""Seconds that no call of a test takes, even on a busy machine."""
RETRY_INTERVAL = 10.0
"""Seconds after which a command that failed is run again."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script")


@define(eq=False)
class Wrapped:
    """A key service, and a file of keys that it wraps."""

    service: KeyService
    file: Path
    lines: dict[Secret, str]
    seconds: float = 0.0

    def line(self, key: Secret) -> str:
        """Return a key, wrapped."""
        if key in self.lines:
            return self.lines[key]
        line = wrapped_key(self.service.wrap, key, TIME_LIMIT)
        assert isinstance(line, Secret)
        return line.reveal()

    def write(self, *lines: str) -> None:
        """Replace the file."""
        new = self.file.with_name("new")
        new.write_text("".join(f"{line}\n" for line in lines), "ascii")
        new.replace(self.file)

    def provider(self, time_limit: float = TIME_LIMIT, **changes: Any) -> WrappedKeyFile:
        """Return a provider of the file."""
        arguments: dict[str, Any] = {"unwrap": self.service.unwrap} | changes
        return WrappedKeyFile(
            self.file, time_limit=time_limit, monotonic=lambda: self.seconds, **arguments
        )

    @property
    def unwrapped(self) -> int:
        """The number of calls that unwrapped, or should have."""
        return sum("transit/decrypt/blink" in call["argv"] for call in self.service.calls)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[Secret, str]:
    """Return the old and the new key, wrapped; each service of a test has the same master key."""
    made = Wrapped(KeyService(tmp_path_factory.mktemp("service")), Path(), {})
    return {key: made.line(key) for key in (OLD, NEW)}


@pytest.fixture
def wrapped(tmp_path: Path, lines: dict[Secret, str]) -> Wrapped:
    """Return a file with one wrapped key."""
    folder = tmp_path / "service"
    folder.mkdir()
    made = Wrapped(KeyService(folder), tmp_path / "tokens.keys", lines)
    made.write(made.line(OLD))
    return made


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[SqlTokenStore]]:
    """Return a list of stores to close."""
    opened: list[SqlTokenStore] = []
    yield opened
    for store in opened:
        store.close()


def put(store: SqlTokenStore, name: str) -> None:
    """Store a pair."""
    idle_until = ISSUED + days(30)
    store.put(grant_key(name), pair(name), issued_at=ISSUED, idle_until=idle_until, note=note())


def opened(provider: KeyProvider) -> Sequence[Key]:
    """Return the keys of a provider."""
    return list(provider.keys())


# What a command prints


@pytest.mark.parametrize("key", [OLD, NEW], ids=["both alphabets", "random"])
def test_what_vault_and_aws_kms_wrap_they_unwrap_to_the_same_key(
    wrapped: Wrapped, key: Secret
) -> None:
    service = wrapped.service
    for wrap, unwrap in (
        (service.wrap, service.unwrap),
        (service.kms_wrap, service.kms_unwrap),
    ):
        line = wrapped_key(wrap, key, TIME_LIMIT)
        assert isinstance(line, Secret)
        assert unwrapped_key(unwrap, line, TIME_LIMIT) == key
        assert not found(spellings(key), [("line", line.reveal())])


def test_a_key_that_the_service_makes_itself_is_a_key(wrapped: Wrapped) -> None:
    service = wrapped.service
    for make, unwrap in ((service.make, service.unwrap), (service.kms_make, service.kms_unwrap)):
        # Such a command reads nothing.
        line = wrapped_key(make, NEW, TIME_LIMIT)
        assert isinstance(line, Secret)
        key = unwrapped_key(unwrap, line, TIME_LIMIT)
        assert isinstance(key, Secret)
        assert key_id(key) not in {None, key_id(NEW)}


@pytest.mark.parametrize(
    "printed",
    [
        "fake-wrapped\nfake-wrapped",
        "two words",
        "ä",
        "x" * 4097,
        OLD.reveal(),
        base64.b64encode(OLD.reveal().encode()).decode(),
    ],
)
def test_a_command_that_prints_no_wrapped_key_wraps_nothing(wrapped: Wrapped, printed: str) -> None:
    wrapped.service.mode(f"print {printed}")
    problem = wrapped_key(wrapped.service.wrap, OLD, TIME_LIMIT)
    assert isinstance(problem, Problem)
    assert "printed" in problem.text
    assert not found([printed], [("problem", problem.text)])


# What is shown


def test_neither_key_is_in_arguments_or_environment_or_any_text_of_the_provider(
    wrapped: Wrapped, stores: list[SqlTokenStore], tmp_path: Path
) -> None:
    line = wrapped.file.read_text("ascii").strip()
    provider = wrapped.provider()
    stores.append(SqlTokenStore(tmp_path / "tokens.db", keys=provider))
    put(stores[0], "a")
    secrets = [*spellings(OLD), line, line.rpartition(":")[2]]
    assert wrapped.unwrapped == 1
    assert not found(secrets, [("calls", wrapped.service.public())])
    assert not found(secrets, serializations_of(provider))
    assert repr(provider) == f"WrappedKeyFile('{wrapped.file}', ['{wrapped.service.program}', …])"
    for write in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            write(provider)
        assert not found(secrets, texts_of_error(caught.value))


FAULTS = {
    "fail": "failed with exit code 2. Its messages are not repeated here",
    "fail with the key": "failed with exit code 1",
    "crash": "failed with signal 9",
    "flood": "printed more than 4096 bytes, and was killed",
    "print ": "printed nothing",
    "print fake-garbage": "printed no key: 32 bytes in base64, or that in base64 again",
    "print ZmFrZS1nYXJiYWdl": "printed no key",
    "print " + "A" * 44: "printed no key",
}


@pytest.mark.parametrize("mode", FAULTS)
def test_a_command_that_fails_gives_no_key_and_its_output_is_not_repeated(
    wrapped: Wrapped, mode: str
) -> None:
    line = wrapped.line(OLD)
    wrapped.service.mode(mode)
    with pytest.raises(InvalidInputError) as caught:
        wrapped.provider().keys()
    text = str(caught.value)
    assert text.startswith(
        f"The key in line 1 of {wrapped.file} cannot be used: the command {wrapped.service.program}"
    )
    assert FAULTS[mode] in text
    secrets = [*spellings(OLD), line, "fake-message", "fake-output", "fake-garbage"]
    assert not found(secrets, texts_of_error(caught.value))
    assert [is_running(call["pid"]) for call in wrapped.service.calls] == [False]


def test_a_store_does_not_open_if_the_command_fails(wrapped: Wrapped, tmp_path: Path) -> None:
    wrapped.service.mode("fail with the key")
    with pytest.raises(InvalidInputError, match="cannot be used: the command") as caught:
        SqlTokenStore(tmp_path / "tokens.db", keys=wrapped.provider())
    assert not found([*spellings(OLD), wrapped.line(OLD)], texts_of_error(caught.value))


@pytest.mark.parametrize("name", ["no-such-program", "./tokens.keys", "/"])
def test_a_command_that_the_machine_lacks_is_named(wrapped: Wrapped, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot be run: .* Install it, or correct its"):
        wrapped.provider(unwrap=[name, "fake-argument"]).keys()


def test_a_key_that_is_not_wrapped_is_not_given_to_the_command(wrapped: Wrapped) -> None:
    for written in (OLD.reveal(), OLD.reveal().rstrip("="), "Zm" * 3000):
        wrapped.write(wrapped.line(NEW), written)
        with pytest.raises(InvalidInputError, match=r"line 2 of .* it is not wrapped") as caught:
            wrapped.provider().keys()
        assert not found([written], texts_of_error(caught.value))
    assert wrapped.unwrapped == 3


WRONG: dict[str, tuple[object, object, object]] = {
    "unwrap must be a list of arguments": ("fake.keys", "fake command", 5),
    "unwrap must be a list of texts": ("fake.keys", [], 5),
    "be a list of texts, such as": ("fake.keys", ["fake\0"], 5),
    "list of texts": ("fake.keys", ["fake", 1], 5),
    "time_limit must be above 0": ("fake.keys", ["fake"], 0),
    "time_limit must be a number of seconds": ("fake.keys", ["fake"], "5"),
    "path must be a path": (5, ["fake"], 5),
    "was given a key": (OLD.reveal(), ["fake"], 5),
}


@pytest.mark.parametrize("expected", WRONG)
def test_an_argument_of_another_type_is_refused_without_being_shown(expected: str) -> None:
    make: Any = WrappedKeyFile
    path, unwrap, limit = WRONG[expected]
    with pytest.raises(InvalidInputError, match=expected) as caught:
        make(path, unwrap, time_limit=limit)
    assert not found([OLD.reveal(), "fake"], [("text", str(caught.value))])


# The time limit


@pytest.mark.parametrize("mode", ["hang", "close and hang"])
def test_a_command_that_hangs_is_killed_with_its_children(wrapped: Wrapped, mode: str) -> None:
    wrapped.service.mode(mode)
    with pytest.raises(InvalidInputError, match=r"did not end within 0\.5 s, and was killed"):
        wrapped.provider(time_limit=0.5).keys()
    (call,) = [each for each in wrapped.service.calls if "transit/decrypt/blink" in each["argv"]]
    # Collected: not even a zombie is left.
    assert not Path(f"/proc/{call['pid']}").exists()
    wait_until(lambda: not is_running(wrapped.service.child))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + TIME_LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_child_that_leaves_the_group_and_keeps_the_pipe_holds_up_no_caller(
    wrapped: Wrapped,
) -> None:
    wrapped.service.mode("leave a child")
    with pytest.raises(InvalidInputError, match=r"did not end within 0\.5 s"):
        wrapped.provider(time_limit=0.5).keys()
    assert is_running(wrapped.service.child)
    os.kill(wrapped.service.child, signal.SIGKILL)
    wait_until(lambda: not is_running(wrapped.service.child))


# When the command runs


def test_the_command_runs_once_for_each_line_however_often_the_store_asks(
    wrapped: Wrapped, stores: list[SqlTokenStore], tmp_path: Path
) -> None:
    stores.append(SqlTokenStore(tmp_path / "tokens.db", keys=wrapped.provider()))
    for name in "abcdef":
        put(stores[0], name)
        assert stores[0].load(grant_key(name)) is not None
    assert wrapped.unwrapped == 1
    wrapped.write(wrapped.file.read_text("ascii").strip(), wrapped.line(NEW))
    put(stores[0], "g")
    assert wrapped.unwrapped == 1


def test_many_threads_that_ask_at_once_run_the_command_once(wrapped: Wrapped) -> None:
    provider = wrapped.provider()
    wrapped.service.mode("slow")
    assert run_concurrently(16, lambda _: provider.current()) == [OLD] * 16
    assert wrapped.unwrapped == 1
    assert opened(provider) == [OLD]
    assert wrapped.unwrapped == 1


def test_threads_that_read_a_growing_file_run_the_command_once_for_each_line(
    tmp_path: Path,
) -> None:
    file, calls, is_over = tmp_path / "tokens.keys", tmp_path / "calls", threading.Event()
    keys = [SqlTokenStore.new_key().reveal() for _ in range(25)]
    # In base64 twice, since a key in base64 is one that is not wrapped.
    lines = [base64.b64encode(base64.b64encode(key.encode())).decode() for key in keys]
    file.write_text(lines[0], "ascii")
    unwrap = ["sh", "-c", 'echo >> "$0"; base64 -d', str(calls)]
    provider = WrappedKeyFile(file, unwrap, time_limit=TIME_LIMIT)

    def read() -> None:
        while not is_over.is_set():
            opened(provider)

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            for count in range(1, len(lines) + 1):
                new = file.with_name("new")
                new.write_text("\n".join(lines[:count]), "ascii")
                new.replace(file)
                assert opened(provider) == [Secret(key) for key in keys[:count]]
        finally:
            is_over.set()
        for reader in readers:
            reader.result()
    assert len(calls.read_text("ascii").splitlines()) == len(lines)


def test_threads_that_wait_for_a_command_that_fails_do_not_run_it_again(wrapped: Wrapped) -> None:
    provider = wrapped.provider()
    wrapped.service.mode("fail")

    def ask(_: int) -> str:
        with pytest.raises(InvalidInputError) as caught:
            provider.keys()
        return str(caught.value)

    assert len(set(run_concurrently(8, ask))) == 1
    assert wrapped.unwrapped == 1
    wrapped.service.mode("")
    wrapped.seconds += RETRY_INTERVAL - 0.1
    ask(0)
    assert wrapped.unwrapped == 1
    wrapped.seconds += 0.1
    assert opened(provider) == [OLD]
    assert wrapped.unwrapped == 2


def test_while_one_thread_tries_a_command_again_that_failed_the_others_do_not_wait(
    wrapped: Wrapped,
) -> None:
    provider = wrapped.provider()
    wrapped.service.mode("fail")
    with pytest.raises(InvalidInputError):
        provider.keys()
    wrapped.service.mode("wait")
    wrapped.seconds += RETRY_INTERVAL
    with ThreadPoolExecutor(1) as pool:
        retry = pool.submit(opened, provider)
        wait_until(lambda: wrapped.unwrapped == 2)
        with pytest.raises(InvalidInputError, match="exit code 2"):
            provider.current()
        wrapped.service.go()
        assert retry.result() == [OLD]
    assert provider.current() == OLD
    assert wrapped.unwrapped == 2


def test_a_running_store_follows_a_rotation_of_the_data_key(
    wrapped: Wrapped, stores: list[SqlTokenStore], tmp_path: Path
) -> None:
    file = tmp_path / "tokens.db"

    def store() -> SqlTokenStore:
        stores.append(SqlTokenStore(file, keys=wrapped.provider()))
        return stores[-1]

    old, new = wrapped.file.read_text("ascii").strip(), wrapped.line(NEW)
    running = store()
    put(running, "a")
    wrapped.write(old, new)
    # Another process seals with the new key first; this one has not unwrapped it yet.
    stores.append(SqlTokenStore(file, keys=[NEW, OLD]))
    put(stores[-1], "b")
    loaded = running.load(B)
    assert loaded is not None
    assert loaded.token == pair("b")
    wrapped.write(new, old)
    before = wrapped.unwrapped
    put(running, "c")
    assert (running.count_older_seals() > 0, wrapped.unwrapped) == (True, before)
    running.rotate_keys()
    assert running.count_older_seals() == 0
    wrapped.write(new)
    put(running, "d")
    assert [store().load(grant_key(name)) is not None for name in "abcd"] == [True] * 4


def test_a_rotation_of_the_master_key_changes_nothing_for_the_store(
    wrapped: Wrapped, stores: list[SqlTokenStore], tmp_path: Path
) -> None:
    stores.append(SqlTokenStore(tmp_path / "tokens.db", keys=wrapped.provider()))
    put(stores[0], "a")
    old = wrapped.file.read_text("ascii").strip()
    wrapped.service.rotate()
    new = subprocess.run(
        wrapped.service.rewrap, input=old, capture_output=True, text=True, check=True
    ).stdout
    assert (old.split(":")[1], new.split(":")[1]) == ("v1", "v2")
    wrapped.write(new)
    put(stores[0], "b")
    assert stores[0].count_older_seals() == 0
    assert stores[0].rotate_keys() == 0
    assert stores[0].load(A) is not None
    assert wrapped.unwrapped == 2


# The command fails while a store is in use


def test_a_store_goes_on_with_its_keys_and_catches_up_when_the_command_works_again(
    wrapped: Wrapped,
    stores: list[SqlTokenStore],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, old, new = tmp_path / "tokens.db", wrapped.file.read_text("ascii"), wrapped.line(NEW)
    stores.append(SqlTokenStore(file, keys=wrapped.provider(), monotonic=lambda: wrapped.seconds))
    stores.append(SqlTokenStore(file, keys=[NEW, OLD]))
    running, newer = stores
    put(running, "a")
    wrapped.service.mode("fail")
    wrapped.write(new, old.strip())
    for name in "bcd":
        put(running, name)
    assert running.load(A) is not None
    assert wrapped.unwrapped == 2
    put(newer, "e")
    with pytest.raises(SealError, match=key_id(NEW)):
        running.load(grant_key("e"))
    assert wrapped.unwrapped == 2
    assert SqlTokenStore(file, keys=[OLD]).count_older_seals() > 0
    wrapped.service.mode("")
    wrapped.seconds += RETRY_INTERVAL
    assert running.load(grant_key("e")) is not None
    put(running, "f")
    assert SqlTokenStore(file, keys=[NEW]).load(grant_key("f")) is not None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "The keys known so far stay in use" in caplog.text
    secrets = [*spellings(OLD, NEW), old.strip(), new, "fake-message"]
    assert not found(secrets, [("log", caplog.text)])


def test_a_file_that_is_missing_or_half_written_changes_no_key(
    wrapped: Wrapped, stores: list[SqlTokenStore], tmp_path: Path
) -> None:
    line = wrapped.file.read_text("ascii").strip()
    file = tmp_path / "tokens.db"
    stores.append(SqlTokenStore(file, keys=wrapped.provider()))
    for content in (None, "", line[:30]):
        if content is None:
            wrapped.file.unlink()
        else:
            wrapped.file.write_text(content, "ascii")
        put(stores[0], f"{content!r}"[:9])
    assert SqlTokenStore(file, keys=[OLD]).count_older_seals() == 0
    with pytest.raises(InvalidInputError, match="cannot be used"):
        SqlTokenStore(file, keys=wrapped.provider())
    wrapped.file.unlink()
    with pytest.raises(InvalidInputError, match="No key can be read from"):
        SqlTokenStore(file, keys=wrapped.provider())


# Where the store runs


def test_the_command_runs_in_a_thread_of_an_asyncio_application(
    wrapped: Wrapped, tmp_path: Path
) -> None:
    async def use() -> bool:
        store = await asyncio.to_thread(
            SqlTokenStore, tmp_path / "tokens.db", keys=wrapped.provider()
        )
        await asyncio.to_thread(put, store, "a")
        # The loop starts processes of its own meanwhile.
        process = await asyncio.create_subprocess_exec("true")
        loaded, code = await asyncio.gather(asyncio.to_thread(store.load, A), process.wait())
        await asyncio.to_thread(store.close)
        return loaded is not None and code == 0

    assert asyncio.run(use())
    assert wrapped.unwrapped == 1


def test_a_process_that_ignores_the_end_of_its_children_gets_its_keys(wrapped: Wrapped) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert opened(wrapped.provider()) == [OLD]
    finally:
        signal.signal(signal.SIGCHLD, before)


FORK = """
import os, sys, threading, warnings
from blink_oauth_keeper import WrappedKeyFile

warnings.simplefilter("ignore", DeprecationWarning)
provider = WrappedKeyFile(sys.argv[1], sys.argv[2:], time_limit=30)
thread = threading.Thread(target=provider.keys)
thread.start()
child = os.fork()
if not child:
    os._exit(len(provider.keys()))
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_forks_while_the_command_runs_leaves_the_child_its_keys(
    wrapped: Wrapped,
) -> None:
    wrapped.service.mode("slow")
    program = [sys.executable, "-c", textwrap.dedent(FORK), str(wrapped.file)]
    done = subprocess.run(
        [*program, *wrapped.service.unwrap], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "1"


def test_keys_that_are_wrapped_are_no_keys_of_a_key_file(wrapped: Wrapped, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="Key 1 of 1 is no Fernet key") as caught:
        SqlTokenStore(tmp_path / "tokens.db", keys=KeyFile(wrapped.file))
    assert not found([wrapped.file.read_text("ascii").strip()], texts_of_error(caught.value))

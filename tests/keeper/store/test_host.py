"""A host that lacks what most hosts have costs no code and no pair."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from blink_oauth import Grant
from blink_oauth_keeper import SqlTokenStore, TokenManager, TokenStore
from keeper.harness import DAY, PSU, REDIRECT_URI, TARGET, Gate, Harness, concurrently

EVERYWHERE = ("sha224", "sha256", "sha384", "sha512")
"""The hashes that a host in FIPS mode has for certain."""
STORES = pytest.mark.parametrize("kind", ["memory", "sqlite", "postgresql"])


@pytest.fixture
def store(kind: str, request: pytest.FixtureRequest, harness: Harness) -> Iterator[TokenStore]:
    """Yield a store of each kind."""
    if kind == "memory":
        yield harness.store
        return
    path = f"sqlite:///{request.getfixturevalue('tmp_path') / 'tokens.db'}"
    url = path if kind == "sqlite" else request.getfixturevalue("postgres_url")
    store = SqlTokenStore(url, keys=[SqlTokenStore.new_key()], clock=harness.clock.now)
    yield store
    store.close()


def forbidden(*_: object, **__: object) -> Any:
    """Raise what OpenSSL raises in FIPS mode."""
    raise ValueError("[digital envelope routines] unsupported")


@contextmanager
def fips_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every hash but the SHA-2 family raise."""
    new, digest, new_hmac = hashlib.new, hmac.digest, hmac.new
    allowed = [*EVERYWHERE, *(getattr(hashlib, name) for name in EVERYWHERE)]

    def checked(call: Callable[..., Any], position: int) -> Callable[..., Any]:
        def hash_or_raise(*args: Any, **options: Any) -> Any:
            named = [*args[position : position + 1], *options.values()]
            if not any(name in allowed for name in named):
                forbidden()
            return call(*args, **options)

        return hash_or_raise

    with monkeypatch.context() as patch:
        for name in hashlib.algorithms_guaranteed - set(EVERYWHERE):
            patch.setattr(hashlib, name, forbidden)
        patch.setattr(hashlib, "new", checked(new, 0))
        patch.setattr(hmac, "digest", checked(digest, 2))
        patch.setattr(hmac, "new", checked(new_hmac, 2))
        yield


def authorize(harness: Harness, manager: TokenManager, username: str = "u-4711") -> Grant:
    grant = Grant(TARGET, username)
    code = harness.banks.issue_code(grant)
    manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    return grant


@STORES
def test_a_host_in_fips_mode_authorizes_refreshes_and_revokes(
    store: TokenStore, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = harness.make_manager(store=store)
    with fips_mode(monkeypatch):
        for name in ("md5", "sha1", "blake2b", "blake2s", "sha3_256", "shake_128"):
            with pytest.raises(ValueError, match="unsupported"):
                getattr(hashlib, name)(b"")
        grant = authorize(harness, manager)
        first = manager.get(grant)
        assert manager.refresh(grant) != first
        harness.advance(25 * DAY)
        assert manager.refresh_due(within=timedelta(days=10)).refreshed == 1
        assert manager.status(grant).generation == 3
        assert len(manager.history(grant)) == 4
        manager.revoke(grant)
        assert str(manager.status(grant).state) == "revoked"


class FailingHandler(logging.Handler):
    """A handler whose disk is full."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("No space left on device")


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let each log record of every logger raise."""
    root, handler = logging.getLogger(), FailingHandler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield
    root.removeHandler(handler)
    root.setLevel(level)


def failing(*_: object) -> Any:
    raise OSError("The host does not provide this.")


def assert_stored(harness: Harness, grant: Grant, generation: int) -> None:
    """Check that the newest pair of the bank is the stored one."""
    record = harness.record(grant)
    assert record.generation == generation
    assert record.token is not None
    assert harness.banks.accepts(grant, record.token)


@pytest.mark.usefixtures("full_disk")
def test_a_log_that_cannot_be_written_costs_no_pair(harness: Harness) -> None:
    manager = harness.make_manager(on_event=failing)
    grant = authorize(harness, manager)
    assert_stored(harness, grant, 1)
    manager.refresh(grant)
    assert_stored(harness, grant, 2)


@pytest.mark.usefixtures("full_disk")
def test_a_log_that_cannot_be_written_costs_no_unstored_pair(harness: Harness) -> None:
    manager = harness.make_manager(on_event=failing)
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    token = manager.get(grant)
    harness.faulty.recover()
    harness.advance(1.1)
    assert_stored(harness, grant, 2)
    assert manager.get(grant) == token


def test_a_host_without_threads_costs_no_pair(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = harness.make_manager()
    grant = authorize(harness, manager)
    gate = Gate()
    harness.banks.respond_always(gate)
    refresh = harness.in_thread(lambda: manager.refresh(grant))
    gate.wait()

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    gate.open()
    refresh.result(10)
    assert_stored(harness, grant, 2)
    # The next flights run in the threads of their callers.
    assert_stored(harness, authorize(harness, manager, "u-4712"), 1)


@pytest.mark.parametrize("clock", ["monotonic", "clock"])
def test_a_clock_that_fails_after_the_token_was_spent_costs_no_pair(
    clock: str, harness: Harness
) -> None:
    broken = threading.Event()
    of_harness = {"monotonic": harness.clock.monotonic, "clock": harness.clock.now}

    def read() -> Any:
        return failing() if broken.is_set() else of_harness[clock]()

    options: dict[str, Any] = {clock: read}
    manager = harness.make_manager(**options)

    def break_clock(execute: Callable[[], Any]) -> Any:
        response = execute()
        broken.set()
        return response

    grant = Grant(TARGET, "u-4711")
    calls: dict[str, Callable[[], object]] = {
        "authorization_code": lambda: authorize(harness, manager),
        "refresh_token": lambda: manager.refresh(grant),
    }
    for generation, (kind, call) in enumerate(calls.items(), 1):
        harness.banks.respond_next(break_clock, kind=kind)
        concurrently(call, 1)
        assert broken.is_set()
        assert_stored(harness, grant, generation)
        broken.clear()

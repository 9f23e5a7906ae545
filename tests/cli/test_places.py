"""Where tokens and keys lie, who can read them, and that no key is ever replaced by accident."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from blink_oauth_cli.app import read_keys, write_keys
from blink_oauth_cli.errors import ExitCode
from blink_oauth_keeper import SqlTokenStore
from cli.cli_harness import Desk, require_two_lines


@pytest.fixture
def fresh(desk: Desk) -> Desk:
    """Give a desk whose store is in the user's data folder."""
    desk.configure(store=None, profile=None)
    return desk


def default_files(desk: Desk, profile: str = "default") -> tuple[Path, Path]:
    """Return the default files of store and keys."""
    folder = desk.folder / "blink-oauth" / profile
    return folder / "tokens.db", folder / "tokens.db.keys"


def mode(path: Path) -> int:
    """Return who may do what with a file."""
    return path.stat().st_mode & 0o777


def test_the_first_use_makes_a_private_store_and_tells_where(fresh: Desk) -> None:
    store, keys = default_files(fresh)
    seen = fresh.run("status")
    assert (seen.code, seen.out) == (0, "")
    assert (mode(store.parent), mode(store), mode(keys)) == (0o700, 0o600, 0o600)
    assert f"A new store: {store}\n" in seen.errors
    assert f"made just now: {keys}. Back it up." in seen.errors
    (key,) = keys.read_text("ascii").split()
    assert key not in seen.errors


def test_the_second_use_makes_and_tells_nothing(fresh: Desk) -> None:
    store, keys = default_files(fresh)
    fresh.run("status")
    before = keys.read_text("ascii")
    seen = fresh.run("status")
    assert "new store" not in seen.errors
    assert keys.read_text("ascii") == before
    assert {path.name for path in store.parent.iterdir()} == {store.name, keys.name}


def test_each_profile_has_a_store_of_its_own(fresh: Desk) -> None:
    fresh.configure(store=None, profile="test")
    assert str(default_files(fresh, "test")[0]) in fresh.run("status").errors


def test_of_two_that_make_the_first_key_one_wins(tmp_path: Path) -> None:
    file = tmp_path / "tokens.keys"
    both_ready = threading.Barrier(8)

    def make() -> None:
        key = SqlTokenStore.new_key()
        both_ready.wait()
        write_keys(file, [key], replace=False)
        seen.append(read_keys(file)[0].reveal())

    seen: list[str] = []
    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert set(seen) == set(file.read_text("ascii").split())
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_lost_key_is_not_replaced(stored: Desk) -> None:
    key = stored.keys.read_text("ascii")
    stored.keys.unlink()
    for words in (("token",), ("status",), ("keys", "rotate")):
        before = sorted(stored.folder.iterdir())
        seen = stored.run(*words)
        assert seen.code == ExitCode.USAGE
        require_two_lines(seen, "The keys of the store are missing", "Put the file back")
        assert sorted(stored.folder.iterdir()) == before
    stored.keys.write_text(key, "ascii")
    assert stored.run("token").code == 0


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xff"])
def test_a_file_without_a_key_is_left_as_it_is(stored: Desk, content: bytes) -> None:
    stored.keys.write_bytes(content)
    seen = stored.run("status")
    assert seen.code == ExitCode.USAGE
    require_two_lines(seen, "No key can be read", "Put the file back")
    assert stored.keys.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_told(desk: Desk) -> None:
    (desk.folder / "file").touch()
    desk.configure(store=str(desk.folder / "file" / "tokens.db"))
    seen = desk.run("status")
    assert seen.code == ExitCode.USAGE
    require_two_lines(seen, "cannot be made", "--store")


def test_keys_may_come_from_a_variable(stored: Desk) -> None:
    (old,) = stored.keys.read_text("ascii").split()
    stored.keys.unlink()
    stored.configure(store_keys=old)
    assert stored.run("token").code == 0
    new = SqlTokenStore.new_key().reveal()
    stored.configure(store_keys=f"{new},{old}")
    seen = stored.run("keys", "rotate")
    assert (seen.code, seen.out) == (0, "Sealed anew: 1. Still under another key: 0.\n")
    assert not stored.keys.exists()
    stored.configure(store_keys=new)
    assert stored.run("token").code == 0


def test_a_rotation_keeps_the_old_key_until_it_is_dropped(stored: Desk) -> None:
    (old,) = stored.keys.read_text("ascii").split()
    assert stored.run("keys", "rotate").code == 0
    new, kept = stored.keys.read_text("ascii").split()
    assert kept == old != new
    assert stored.run("keys", "rotate", "--drop-old").code == 0
    (newest,) = stored.keys.read_text("ascii").split()
    assert newest not in {old, new}
    assert stored.run("token").code == 0
    assert mode(stored.keys) == 0o600


def test_a_rotation_without_the_right_key_makes_none(stored: Desk) -> None:
    wrong = SqlTokenStore.new_key().reveal()
    stored.keys.write_text(wrong, "ascii")
    seen = stored.run("keys", "rotate", "--drop-old")
    assert (seen.code, seen.out) == (ExitCode.FAILED, "")
    require_two_lines(seen, "1 stored pairs are sealed with a key that is not given", "key back")
    assert stored.keys.read_text("ascii") == wrong


def test_a_store_elsewhere_needs_a_named_key(desk: Desk) -> None:
    desk.configure(store="postgresql+psycopg://nobody@127.0.0.1:1/nowhere")
    seen = desk.run("status")
    assert seen.code == ExitCode.USAGE
    require_two_lines(seen, "No key is known", "blink-oauth keys generate")

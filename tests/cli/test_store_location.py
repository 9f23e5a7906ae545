"""The location and permissions of tokens and keys; no key is replaced by accident."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from blink_oauth_cli.app import read_keys, write_keys
from blink_oauth_cli.errors import ExitCode
from blink_oauth_keeper import SqlTokenStore
from cli.cli_harness import Harness, require_two_lines


@pytest.fixture
def without_store(harness: Harness) -> Harness:
    """Return a harness without a store, which will be in the user's data folder."""
    harness.configure(store=None, profile=None)
    return harness


def default_files(harness: Harness, profile: str = "default") -> tuple[Path, Path]:
    """Return the default files of the store and of its keys."""
    folder = harness.folder / "blink-oauth" / profile
    return folder / "tokens.db", folder / "tokens.db.keys"


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return path.stat().st_mode & 0o777


def test_the_first_use_creates_a_private_store_and_prints_its_location(
    without_store: Harness,
) -> None:
    store, keys = default_files(without_store)
    result = without_store.run("status")
    assert (result.code, result.out) == (0, "")
    assert (mode(store.parent), mode(store), mode(keys)) == (0o700, 0o600, 0o600)
    assert f"A new store: {store}\n" in result.errors
    assert f"made just now: {keys}. Back it up." in result.errors
    (key,) = keys.read_text("ascii").split()
    assert key not in result.errors


def test_the_second_use_creates_and_prints_nothing(without_store: Harness) -> None:
    store, keys = default_files(without_store)
    without_store.run("status")
    before = keys.read_text("ascii")
    result = without_store.run("status")
    assert "new store" not in result.errors
    assert keys.read_text("ascii") == before
    assert {path.name for path in store.parent.iterdir()} == {store.name, keys.name}


def test_each_profile_has_a_store_of_its_own(without_store: Harness) -> None:
    without_store.configure(store=None, profile="test")
    assert str(default_files(without_store, "test")[0]) in without_store.run("status").errors


def test_threads_that_create_the_first_key_at_once_all_read_the_same_key(tmp_path: Path) -> None:
    file = tmp_path / "tokens.keys"
    all_ready = threading.Barrier(8)

    def create() -> None:
        key = SqlTokenStore.new_key()
        all_ready.wait()
        write_keys(file, [key], replace=False, consequence="", remedy="")
        result.append(read_keys(file)[0].reveal())

    result: list[str] = []
    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(result) == 8
    assert set(result) == set(file.read_text("ascii").split())
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_missing_keys_file_is_not_replaced(stored: Harness) -> None:
    key = stored.keys.read_text("ascii")
    stored.keys.unlink()
    for words in (("token",), ("status",), ("keys", "rotate")):
        before = sorted(stored.folder.iterdir())
        result = stored.run(*words)
        assert result.code == ExitCode.USAGE
        require_two_lines(result, "The keys of the store are missing", "Put the file back")
        assert sorted(stored.folder.iterdir()) == before
    stored.keys.write_text(key, "ascii")
    assert stored.run("token").code == 0


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xff"])
def test_a_file_without_a_key_is_not_changed(stored: Harness, content: bytes) -> None:
    stored.keys.write_bytes(content)
    result = stored.run("status")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "No key can be read", "Put the file back")
    assert stored.keys.read_bytes() == content


def test_a_folder_that_cannot_be_created_is_an_error(harness: Harness) -> None:
    (harness.folder / "file").touch()
    harness.configure(store=str(harness.folder / "file" / "tokens.db"))
    result = harness.run("status")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "cannot be made", "--store (BLINK_STORE)")


def test_a_keys_folder_that_cannot_be_created_names_the_flag_of_the_keys(
    without_store: Harness,
) -> None:
    (without_store.folder / "file").touch()
    keys_file = str(without_store.folder / "file" / "tokens.keys")
    without_store.configure(store=None, profile=None, store_keys_file=keys_file)
    result = without_store.run("status")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "cannot be made", "--store-keys-file (BLINK_STORE_KEYS_FILE)")


def test_a_sandbox_without_a_folder_for_its_environment_does_not_start(harness: Harness) -> None:
    folder = harness.folder / "blink-oauth"
    folder.touch()
    result = harness.run("sandbox")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    require_two_lines(result, f"The folder {folder} cannot be made", "may write to")
    assert "--store" not in result.errors


def test_a_generated_key_that_cannot_be_written_leaves_the_store_out(harness: Harness) -> None:
    file = harness.folder / "missing" / "tokens.keys"
    result = harness.run("keys", "generate", "--output", str(file))
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    require_two_lines(result, f"{file} cannot be written", "Name another file with --output.")
    assert "Nothing was written." in result.errors
    assert "store" not in result.errors


@pytest.mark.parametrize(
    ("flags", "writes", "what", "do"),
    [
        ((), 0, "No new key was made.", "then run blink-oauth keys rotate again."),
        (("--drop-old",), 1, "The older keys are still in it.", "keys rotate --drop-old again."),
    ],
)
def test_a_rotation_that_cannot_write_its_file_says_what_was_done(
    stored: Harness, flags: tuple[str, ...], writes: int, what: str, do: str
) -> None:
    remaining = iter(range(writes))
    replace = Path.replace

    def fail_after_writes(file: Path, target: Path) -> Path:
        if next(remaining, None) is None:
            raise PermissionError(13, "Permission denied")
        return replace(file, target)

    stored.monkeypatch.setattr(Path, "replace", fail_after_writes)
    (old,) = stored.keys.read_text("ascii").split()
    result = stored.run("keys", "rotate", *flags)
    assert result.code == ExitCode.USAGE
    *_, first, second = result.errors.splitlines()
    assert what in first
    assert second.endswith(do)
    keys = stored.keys.read_text("ascii").split()
    assert (keys[-1], len(keys)) == (old, 1 + writes)
    assert stored.run("token").code == 0


def test_keys_may_come_from_a_variable(stored: Harness) -> None:
    (old,) = stored.keys.read_text("ascii").split()
    stored.keys.unlink()
    stored.configure(store_keys=old)
    assert stored.run("token").code == 0
    new = SqlTokenStore.new_key().reveal()
    stored.configure(store_keys=f"{new},{old}")
    result = stored.run("keys", "rotate")
    assert (result.code, result.out) == (0, "Sealed anew: 1. Still under another key: 0.\n")
    assert not stored.keys.exists()
    stored.configure(store_keys=new)
    assert stored.run("token").code == 0


def test_a_rotation_keeps_the_old_key_until_it_is_dropped(stored: Harness) -> None:
    (old,) = stored.keys.read_text("ascii").split()
    assert stored.run("keys", "rotate").code == 0
    new, kept = stored.keys.read_text("ascii").split()
    assert kept == old != new
    assert stored.run("keys", "rotate", "--drop-old").code == 0
    (newest,) = stored.keys.read_text("ascii").split()
    assert newest not in {old, new}
    assert stored.run("token").code == 0
    assert mode(stored.keys) == 0o600


def test_a_rotation_with_a_wrong_key_creates_no_key(stored: Harness) -> None:
    wrong = SqlTokenStore.new_key().reveal()
    stored.keys.write_text(wrong, "ascii")
    result = stored.run("keys", "rotate", "--drop-old")
    assert (result.code, result.out) == (ExitCode.FAILED, "")
    require_two_lines(result, "1 stored pairs are sealed with a key that is not given", "key back")
    assert stored.keys.read_text("ascii") == wrong


def test_a_database_store_needs_configured_keys(harness: Harness) -> None:
    harness.configure(store="postgresql+psycopg://nobody@127.0.0.1:1/nowhere")
    result = harness.run("status")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "No key is known", "blink-oauth keys generate")

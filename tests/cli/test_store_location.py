"""The location and permissions of tokens and keys; no key is replaced by accident."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve

from blink_oauth.tokens import Secret
from blink_oauth_cli.errors import ExitCode
from blink_oauth_cli.key_files import read_keys, write_keys
from blink_oauth_keeper import GrantKey, KeyFile, Note, Record, SqlTokenStore
from blink_oauth_keeper.store.sealing import key_id
from cli.cli_harness import CLIENT, Harness, require_two_lines
from cli.test_conditions import store_locked


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


def test_the_first_login_creates_a_private_store_and_prints_its_location(
    without_store: Harness,
) -> None:
    store, keys = default_files(without_store)
    # No code is received, so that the login fails; the store is made before.
    result = without_store.run("login", "--no-browser", "--timeout", "1")
    assert (mode(store.parent), mode(store), mode(keys)) == (0o700, 0o600, 0o600)
    assert f"A new store: {store}\n" in result.errors
    assert f"made just now: {keys}. Back it up." in result.errors
    (key,) = keys.read_text("ascii").split()
    assert key not in result.errors


def test_the_second_use_creates_and_prints_nothing(without_store: Harness) -> None:
    store, keys = default_files(without_store)
    without_store.run("store", "init")
    before = keys.read_text("ascii")
    result = without_store.run("status")
    assert result.code == 0
    assert "new store" not in result.errors
    assert keys.read_text("ascii") == before
    assert {path.name for path in store.parent.iterdir()} == {store.name, keys.name}


@pytest.mark.parametrize("name", ["what?", "a#b", "50%25 off", "two words", "ä?b=c&d"])
@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
def test_the_file_that_is_printed_is_the_file_that_is_used(
    without_store: Harness, tmp_path: Path, name: str, prefix: str
) -> None:
    store = tmp_path / name / "tokens.db"
    without_store.configure(store=f"{prefix}{store}", profile=None)
    result = without_store.run("store", "init")
    if prefix and "?" in name:
        require_two_lines(result)
        assert result.code == ExitCode.USAGE
        assert "question mark" in result.errors
        assert not store.parent.exists()
        return
    assert f"A new store: {store}\n" in result.out
    assert without_store.run("status").code == 0
    assert {path.name for path in store.parent.iterdir()} == {"tokens.db", "tokens.db.keys"}


def test_each_profile_has_a_store_of_its_own(without_store: Harness) -> None:
    without_store.configure(store=None, profile="test")
    assert str(default_files(without_store, "test")[0]) in without_store.run("store", "init").out


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
    for words in (("token",), ("status",), ("keys", "add"), ("keys", "seal"), ("keys", "drop")):
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
    result = harness.run("store", "init")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "cannot be made", "--store (BLINK_STORE)")


def test_a_keys_folder_that_cannot_be_created_names_the_flag_of_the_keys(
    without_store: Harness,
) -> None:
    (without_store.folder / "file").touch()
    keys_file = str(without_store.folder / "file" / "tokens.keys")
    without_store.configure(store=None, profile=None, store_keys_file=keys_file)
    result = without_store.run("store", "init")
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


def keys_in(harness: Harness) -> list[str]:
    """Return the keys in the file of the store's keys."""
    return harness.keys.read_text("ascii").split()


def add_key(harness: Harness) -> str:
    """Add a key with the command, and return its id."""
    result = harness.run("keys", "add")
    assert result.code == 0
    return result.out.strip()


def require(record: Record | None) -> Record:
    """Return the record, which must exist."""
    assert record is not None
    return record


@pytest.mark.parametrize(
    ("word", "what", "do"),
    [
        ("add", "No new key was made.", "then run blink-oauth keys add again."),
        ("seal", "The first key is still the first one.", "then run blink-oauth keys seal again."),
        ("drop", "All keys are still in it.", "then run blink-oauth keys drop again."),
    ],
)
def test_a_rotation_that_cannot_write_its_file_says_what_was_done(
    stored: Harness, word: str, what: str, do: str
) -> None:
    key_id = add_key(stored)
    before = keys_in(stored)

    def fail(file: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    stored.monkeypatch.setattr(Path, "replace", fail)
    result = stored.run("keys", word, *([key_id] if word == "seal" else []))
    assert result.code == ExitCode.USAGE
    *_, first, second = result.errors.splitlines()
    assert what in first
    assert second.endswith(do)
    assert keys_in(stored) == before
    assert stored.run("token").code == 0


def test_keys_may_come_from_a_variable(stored: Harness) -> None:
    (old,) = keys_in(stored)
    stored.keys.unlink()
    stored.configure(store_keys=old)
    assert stored.run("token").code == 0
    new = SqlTokenStore.new_key().reveal()
    stored.configure(store_keys=f"{new},{old}")
    result = stored.run("keys", "seal")
    assert (result.code, result.out) == (0, "Sealed anew: 1. Still under another key: 0.\n")
    for words in (("keys", "add"), ("keys", "seal", "0123456789abcdef"), ("keys", "drop")):
        result = stored.run(*words)
        assert result.code == ExitCode.USAGE
        require_two_lines(result, "The keys are not in a file", "BLINK_STORE_KEYS")
    assert not stored.keys.exists()
    stored.configure(store_keys=new)
    assert stored.run("token").code == 0


def test_a_rotation_keeps_the_old_key_until_it_is_dropped(stored: Harness) -> None:
    (old,) = keys_in(stored)
    new_id = add_key(stored)
    kept, new = keys_in(stored)
    assert kept == old != new
    result = stored.run("keys", "seal", new_id)
    assert result.out == "Sealed anew: 1. Still under another key: 0.\n"
    assert keys_in(stored) == [new, old]
    # The same command again changes nothing.
    assert stored.run("keys", "seal", new_id).code == 0
    assert keys_in(stored) == [new, old]
    assert stored.run("keys", "drop").out == f"Keys removed from {stored.keys}: 1.\n"
    assert keys_in(stored) == [new]
    assert stored.run("token").code == 0
    assert mode(stored.keys) == 0o600


def test_no_step_of_a_rotation_blinds_a_running_process(stored: Harness) -> None:
    key = GrantKey(CLIENT, stored.sandbox.grant())
    url, pair = f"sqlite:///{stored.file}", stored.pair()
    running = SqlTokenStore(url, keys=KeyFile(stored.keys))
    new_id = add_key(stored)
    assert require(running.load(key)).token == pair
    assert stored.run("keys", "seal", new_id).code == 0
    assert require(running.load(key)).token == pair
    # It seals with the first key of the file, so that the other one can be dropped.
    again = evolve(pair, access_token=Secret("fake-access-token-again"))
    note, now = Note(event="changed"), datetime.now(UTC)
    put = running.put(key, again, issued_at=now, idle_until=now, note=note)
    assert running.count_older_seals() == 0
    assert stored.run("keys", "drop").code == 0
    assert running.load(key) == put == stored.record()
    running.close()


def test_keys_that_seal_a_pair_are_not_dropped(stored: Harness) -> None:
    (old,) = keys_in(stored)
    new = SqlTokenStore.new_key().reveal()
    stored.keys.write_text(f"{new}\n{old}\n", "ascii")
    result = stored.run("keys", "drop")
    assert result.code == ExitCode.FAILED
    require_two_lines(result, "1 stored pairs are sealed with another key", "keys seal")
    assert keys_in(stored) == [new, old]
    assert stored.run("keys", "seal").code == 0
    assert stored.run("keys", "drop").code == 0
    assert stored.run("token").code == 0


def test_a_key_that_seals_a_pair_while_it_is_dropped_is_put_back(stored: Harness) -> None:
    assert stored.run("keys", "seal", add_key(stored)).code == 0
    before = keys_in(stored)
    counts = iter((0, 1))
    stored.monkeypatch.setattr(SqlTokenStore, "count_older_seals", lambda _: next(counts))
    result = stored.run("keys", "drop")
    assert result.code == ExitCode.FAILED
    require_two_lines(result, "1 stored pairs are sealed with another key", "keys seal")
    assert keys_in(stored) == before
    assert next(counts, None) is None


def test_an_unknown_key_id_is_an_error_that_lists_the_ids(stored: Harness) -> None:
    new_id = add_key(stored)
    before = keys_in(stored)
    result = stored.run("keys", "seal", "0123456789abcdef")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "has no key 0123456789abcdef", new_id)
    assert keys_in(stored) == before


def test_a_seal_that_the_store_refuses_can_be_made_later(stored: Harness) -> None:
    new_id = add_key(stored)
    with store_locked(stored):
        result = stored.run("keys", "seal", new_id)
    assert result.code == ExitCode.FAILED
    assert "SQLITE_BUSY" in result.errors
    assert stored.run("token").code == 0
    result = stored.run("keys", "seal", new_id)
    assert result.out == "Sealed anew: 1. Still under another key: 0.\n"


def test_a_replaced_key_file_keeps_its_mode_and_its_link(stored: Harness) -> None:
    target = stored.folder / "secrets" / "keys"
    target.parent.mkdir()
    stored.keys.rename(target)
    stored.keys.symlink_to(target)
    target.chmod(0o640)
    assert stored.run("keys", "seal", add_key(stored)).code == 0
    assert stored.run("keys", "drop").code == 0
    assert stored.keys.is_symlink()
    assert mode(target) == 0o640
    assert stored.run("token").code == 0
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_replaced_key_file_keeps_its_owner(stored: Harness) -> None:
    owner = stored.keys.stat()
    stat, changes = Path.stat, list[tuple[str, int, int]]()

    def stat_by_another_user(path: Path, **options: bool) -> os.stat_result:
        found = stat(path, **options)
        if not path.name.startswith(".keys-"):
            return found
        return os.stat_result((*found[:4], found.st_uid + 1, *found[5:]))

    def change(path: str, uid: int, gid: int) -> None:
        changes.append((Path(path).name[:6], uid, gid))

    stored.monkeypatch.setattr(Path, "stat", stat_by_another_user)
    stored.monkeypatch.setattr(os, "chown", change)
    assert stored.run("keys", "add").code == 0
    assert changes == [(".keys-", owner.st_uid, owner.st_gid)]


def test_a_seal_during_which_another_process_uses_the_old_key_says_so(stored: Harness) -> None:
    new_id = add_key(stored)
    counts = iter((0, 1))
    stored.monkeypatch.setattr(SqlTokenStore, "count_older_seals", lambda _: next(counts))
    result = stored.run("keys", "seal", new_id)
    assert result.code == ExitCode.FAILED
    assert result.out == "Sealed anew: 1. Still under another key: 1.\n"
    require_two_lines(result, "can be opened as before", "keys seal again")


@pytest.mark.parametrize("form", ["\ufeff{}\r\n", "{}", "\n{}\n\n", "{}\r\n{}\r\n"])
def test_the_form_of_the_key_file_does_not_matter(stored: Harness, form: str) -> None:
    (key,) = keys_in(stored)
    stored.keys.write_bytes(form.format(key, key).encode())
    assert stored.run("token").code == 0
    assert stored.run("keys", "seal").out == "Sealed anew: 0. Still under another key: 0.\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_encoding_of_the_key_file_does_not_matter(stored: Harness, encoding: str) -> None:
    (key,) = keys_in(stored)
    stored.keys.write_bytes(f"{key}\r\n".encode(encoding))
    assert stored.run("token").code == 0


def test_a_key_file_that_is_no_text_is_refused(stored: Harness) -> None:
    (key,) = keys_in(stored)
    stored.keys.write_bytes(key.encode("utf-16-le"))
    result = stored.run("token")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "No key can be read")


def test_a_rotation_with_a_wrong_key_changes_no_key(stored: Harness) -> None:
    wrong = SqlTokenStore.new_key().reveal()
    stored.keys.write_text(wrong, "ascii")
    for words in (("keys", "seal"), ("keys", "seal", key_id(wrong) or "")):
        result = stored.run(*words)
        assert (result.code, result.out) == (ExitCode.FAILED, "")
        what = "1 stored pairs are sealed with a key that is not given"
        require_two_lines(result, what, "key back")
        assert stored.keys.read_text("ascii") == wrong


def test_a_database_store_needs_configured_keys(harness: Harness) -> None:
    harness.configure(store="postgresql+psycopg://nobody@127.0.0.1:1/nowhere")
    result = harness.run("status")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "No key is known", "blink-oauth keys generate")

"""The command with keys that a key service wraps: made, rotated and moved without one on disk."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from attrs import define

from blink_oauth import Secret
from blink_oauth_cli.errors import ExitCode
from blink_oauth_keeper import SqlTokenStore, WrappedKeyFile
from blink_oauth_keeper.store.sealing import key_id
from cli.cli_harness import CommandResult, Harness, require_two_lines
from key_service import KeyService, spellings
from wrapper.leaks import found

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script")


@define(eq=False)
class Wrapping:
    """A harness whose keys are wrapped."""

    harness: Harness
    service: KeyService
    provider: WrappedKeyFile

    def configure(self, **changes: str | None) -> None:
        """Set the commands, with changes by the keys of the configuration file."""
        commands: dict[str, str | None] = {
            "store_keys_unwrap": shlex.join(self.service.unwrap),
            "store_keys_wrap": shlex.join(self.service.wrap),
        }
        self.harness.configure(**(commands | changes))

    def run(self, *words: str) -> CommandResult:
        """Run a command, and require that it shows no key, wrapped or not."""
        result = self.harness.run(*words)
        texts = [("out", result.out), ("errors", result.errors), ("calls", self.service.public())]
        assert not found([*spellings(*self.keys()), *self.lines], texts)
        return result

    @property
    def lines(self) -> list[str]:
        """The lines of the file of the keys."""
        file = self.harness.keys
        return file.read_text("ascii").split() if file.exists() else []

    def keys(self) -> list[Secret]:
        """Return the keys in the file."""
        keys = self.provider.keys() if self.lines else ()
        return [key for key in keys if isinstance(key, Secret)]

    def ids(self) -> list[str | None]:
        """Return the ids of the keys in the file."""
        return [key_id(key) for key in self.keys()]


@pytest.fixture
def wrapping(harness: Harness) -> Wrapping:
    """Return a harness whose keys are wrapped, and no store."""
    folder = harness.folder / "service"
    folder.mkdir()
    service = KeyService(folder)
    made = Wrapping(harness, service, WrappedKeyFile(harness.keys, service.unwrap, time_limit=60))
    made.configure()
    return made


def test_a_store_is_made_and_its_key_rotated_with_wrapped_keys_alone(wrapping: Wrapping) -> None:
    assert wrapping.run("store", "init").code == 0
    (old,) = wrapping.lines
    assert old.startswith("vault:v1:")
    assert stat.S_IMODE(wrapping.harness.keys.stat().st_mode) == 0o600
    added = wrapping.run("keys", "add")
    first, new = wrapping.ids()
    assert (added.code, added.out.strip()) == (0, new)
    assert wrapping.lines[0] == old
    assert new is not None
    unknown = wrapping.run("keys", "seal", "0123")
    require_two_lines(unknown, "has no key 0123", f"Its keys are {first}, {new}.")
    assert wrapping.run("keys", "seal", new).code == 0
    assert wrapping.ids() == [new, first]
    assert wrapping.run("keys", "drop").code == 0
    assert wrapping.ids() == [new]
    assert wrapping.run("status").code == 0
    with closing(SqlTokenStore(wrapping.harness.file, keys=wrapping.keys())) as store:
        assert store.count_older_seals() == 0


def test_the_service_may_make_the_key_itself(wrapping: Wrapping) -> None:
    wrapping.configure(store_keys_wrap=shlex.join(wrapping.service.make))
    wrapping.run("store", "init")
    assert wrapping.run("keys", "add").out.strip() == wrapping.ids()[1]


def test_a_new_key_is_wrapped_in_its_file_and_plain_only_if_it_is_revealed(
    wrapping: Wrapping,
) -> None:
    file = wrapping.harness.folder / "new.keys"
    assert wrapping.run("keys", "generate", "--output", str(file)).code == 0
    assert file.read_text("ascii").startswith("vault:v1:")
    before = file.read_text("ascii")
    again = wrapping.run("keys", "generate", "--output", str(file))
    assert again.code == ExitCode.USAGE
    assert file.read_text("ascii") == before
    assert len(wrapping.run("keys", "generate", "--reveal").out.strip()) == 44


def test_the_keys_of_a_store_in_use_are_wrapped_and_stay_the_same(wrapping: Wrapping) -> None:
    harness = wrapping.harness
    wrapping.configure(store_keys_unwrap=None, store_keys_wrap=None)
    harness.run("store", "init")
    plain, file = harness.keys.read_text("ascii").strip(), harness.folder / "wrapped.keys"
    harness.keys.write_text(plain.rstrip("="), "ascii")
    words = ("keys", "wrap", str(harness.keys), "--output", str(file))
    require_two_lines(harness.run(*words), "No command is known that unwraps", "KEYS_UNWRAP")
    wrapping.configure(store_keys_wrap=None)
    require_two_lines(harness.run(*words), "No command is known that wraps", "KEYS_WRAP")
    wrapping.configure(store_keys_wrap=shlex.join(wrapping.service.make))
    require_two_lines(harness.run(*words), "did not come back", "BLINK_STORE_KEYS_WRAP")
    assert not file.exists()
    wrapping.configure(store_keys_file=str(file))
    result = harness.run(*words)
    assert (result.code, stat.S_IMODE(file.stat().st_mode)) == (0, 0o600)
    assert not found([*spellings(Secret(plain))], [("file", file.read_text("ascii"))])
    assert harness.run("status").code == 0
    opened = WrappedKeyFile(file, wrapping.service.unwrap).keys()
    assert [key_id(key) for key in opened] == [key_id(plain)]
    assert harness.run(*words).code == ExitCode.USAGE


def test_keys_that_are_wrapped_twice_or_not_at_all_change_nothing(wrapping: Wrapping) -> None:
    wrapping.run("store", "init")
    file = wrapping.harness.folder / "again.keys"
    calls = len(wrapping.service.calls)
    result = wrapping.run("keys", "wrap", str(wrapping.harness.keys), "--output", str(file))
    assert (result.code, file.exists()) == (ExitCode.USAGE, False)
    require_two_lines(result, "since the key is none: 32 bytes in base64")
    # One call of the harness, which reads the keys.
    assert len(wrapping.service.calls) <= calls + 1
    plain = SqlTokenStore.new_key().reveal()
    wrapping.harness.keys.write_text(plain, "ascii")
    result = wrapping.harness.run("status")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "cannot be used: it is not wrapped", "run the command again")
    assert plain not in result.errors


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("fail", "exit code 2"), ("print vault:v1:fake", "unwraps a key"), ("print ", "nothing")],
)
def test_a_key_that_cannot_be_wrapped_and_opened_again_is_not_written(
    wrapping: Wrapping, mode: str, expected: str
) -> None:
    wrapping.service.mode(mode)
    result = wrapping.harness.run("store", "init")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, expected, "then run this again")
    assert not wrapping.harness.keys.exists()
    assert not wrapping.harness.file.exists()


def test_a_command_that_prints_the_key_as_it_is_wraps_nothing(wrapping: Wrapping) -> None:
    wrapping.configure(store_keys_wrap="cat", store_keys_unwrap="cat")
    result = wrapping.harness.run("store", "init")
    require_two_lines(result, "printed no wrapped key", "BLINK_STORE_KEYS_WRAP")
    assert not wrapping.harness.keys.exists()


def test_a_store_does_not_open_while_the_service_is_unavailable(wrapping: Wrapping) -> None:
    wrapping.run("store", "init")
    wrapping.service.mode("fail")
    for words in (("status",), ("keys", "add")):
        before = wrapping.harness.keys.read_bytes()
        result = wrapping.harness.run(*words)
        assert result.code == ExitCode.USAGE
        require_two_lines(result, "failed with exit code 2", "run the command again")
        assert wrapping.harness.keys.read_bytes() == before


def test_grants_move_between_stores_whose_keys_are_wrapped(wrapping: Wrapping) -> None:
    wrapping.run("store", "init")
    other = wrapping.harness.folder / "other.db"
    assert wrapping.run("store", "init", "--store", str(other)).code == 0
    result = wrapping.run("store", "copy", str(other))
    assert (result.code, result.out.split(".")[0]) == (0, "Moved: 0")


# The configuration


def test_a_command_of_a_file_that_was_found_in_the_working_folder_is_not_run(
    wrapping: Wrapping,
) -> None:
    harness = wrapping.harness
    wrapping.run("store", "init")
    wrapping.configure(store_keys_unwrap=None, store_keys_wrap=None, profile=None)
    file = harness.folder / "blink-oauth.toml"
    unwrap = shlex.join(wrapping.service.unwrap)
    file.write_text(f"[profiles.test]\nstore_keys_unwrap = '{unwrap}'\n", "utf-8")
    harness.monkeypatch.setenv("XDG_CONFIG_HOME", str(harness.folder / "elsewhere"))
    calls = len(wrapping.service.calls)
    result = harness.run("status")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "names a command, store_keys_unwrap. It was not run", "--config")
    assert len(wrapping.service.calls) == calls
    assert harness.run("status", "--config", str(file)).code == 0
    assert len(wrapping.service.calls) > calls
    harness.monkeypatch.setenv("BLINK_STORE_KEYS_UNWRAP", "fake-command")
    contradiction = harness.run("status", "--config", str(file))
    require_two_lines(contradiction, "another value than BLINK_STORE_KEYS_UNWRAP", "Unset")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"store_keys_unwrap": "vault 'write"}, "lacks a quotation mark"),
        ({"store_keys_unwrap": None}, "but not the command that unwraps"),
        ({"store_keys_unwrap": "no-such-program"}, "cannot be run"),
    ],
)
def test_a_command_that_cannot_be_used_is_named(
    wrapping: Wrapping, changes: dict[str, str | None], expected: str
) -> None:
    wrapping.configure(**changes)
    result = wrapping.harness.run("store", "init")
    assert result.code == ExitCode.USAGE
    require_two_lines(result, expected)
    assert not wrapping.harness.file.exists()


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "keys.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_names_the_commands_that_the_tests_run(wrapping: Wrapping) -> None:
    page, service = PAGE.read_text("utf-8"), wrapping.service
    vault = (service.unwrap, service.make, service.wrap, service.rewrap)
    aws = (service.kms_unwrap, service.kms_make, service.kms_wrap)
    for program, commands in (("vault", vault), ("aws", aws)):
        assert [c[1:] for c in commands if shlex.join([program, *c[1:]]) not in page] == []


def test_the_commands_of_the_page_work_in_order(wrapping: Wrapping) -> None:
    service, folder = wrapping.service, wrapping.harness.folder
    (folder / "service" / "aws").symlink_to(service.program)
    wrapping.configure(store_keys_unwrap=None, store_keys_wrap=None)
    programs = [str(service.folder), os.environ["PATH"]]
    wrapping.harness.monkeypatch.setenv("PATH", os.pathsep.join(programs))
    setup, vault, aws, rewrap = BLOCK.findall(PAGE.read_text("utf-8"))

    def execute(*blocks: str) -> None:
        script = re.sub("^[$>] ", "", "".join(blocks), flags=re.MULTILINE)
        subprocess.run(["bash", "-euc", script], check=True, timeout=60, capture_output=True)

    file = folder / "wrapped.keys"
    *exports, last = vault.splitlines(keepends=True)
    execute(setup, *exports, "env -0 > variables\n")
    variables = dict(
        each.split("=", 1) for each in Path("variables").read_text().split("\0") if each
    )
    for name in ("BLINK_STORE_KEYS_FILE", "BLINK_STORE_KEYS_UNWRAP", "BLINK_STORE_KEYS_WRAP"):
        wrapping.harness.monkeypatch.setenv(name, variables[name])
    assert last.startswith("$ blink-oauth ")
    assert wrapping.harness.run(*last.split()[2:]).code == 0
    before, keys = file.read_text("ascii"), WrappedKeyFile(file, service.unwrap).keys()
    execute(rewrap)
    after = file.read_text("ascii")
    assert (before.split(":")[1], after.split(":")[1]) == ("v1", "v2")
    assert WrappedKeyFile(file, service.unwrap).keys() == keys
    execute(aws, 'eval "$BLINK_STORE_KEYS_WRAP" > aws.keys\n')
    assert len(WrappedKeyFile(folder / "aws.keys", service.kms_unwrap).keys()) == 1

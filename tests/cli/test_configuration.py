"""What a command is told: flags over variables over the file, and a guard between environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest

from blink_oauth import Grant
from blink_oauth_cli.app import place_of
from blink_oauth_cli.configuration import KEYS, SECRETS, Configuration, configure
from blink_oauth_cli.errors import ExitCode, TroubleError
from blink_oauth_cli.options import configured, said_by, the_grant
from blink_oauth_keeper import TargetProfile

Configure = Callable[..., Configuration]
TEST_ID, PRODUCTION_ID = "CIDX0000000002", "CIDP0000000002"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Return what puts the sources together, with the text of a file as the last of them."""

    def act(file: str | None = None, *, flags: Sequence[str] = (), **environ: str) -> Configuration:
        if file is not None:
            (tmp_path / "blink-oauth.toml").write_text(file, "utf-8")
        with monkeypatch.context() as variables:
            for name, value in environ.items():
                variables.setenv(f"BLINK_{name.upper()}", value)
            command = configured("")(the_grant(lambda: None))
            said = said_by(command.make_context("any", list(flags)))
        return configure(said, folder=tmp_path, user_folder=tmp_path / "user")

    return act


def refused(act: Callable[[], object], what: str) -> TroubleError:
    """Require that something is refused before anything is sent."""
    with pytest.raises(TroubleError) as caught:
        act()
    assert caught.value.code is ExitCode.USAGE
    assert what in caught.value.what
    assert caught.value.do
    return caught.value


def test_flags_count_more_than_variables_and_these_more_than_the_file(told: Configure) -> None:
    file = '[profiles.test]\nuser_agent = "file/1"\nusername = "file"\ntarget = "IIDX00001"'
    found = told(
        file, flags=["--user-agent", "flag/1"], user_agent="variable/1", username="variable"
    )
    assert [found.get(n) for n in ("user_agent", "username", "target", "ca")] == [
        "flag/1",
        "variable",
        "IIDX00001",
        None,
    ]


def test_an_empty_variable_says_nothing(told: Configure) -> None:
    assert told('[profiles.test]\nusername = "file"', username="").get("username") == "file"


def test_an_empty_flag_says_nothing(told: Configure) -> None:
    found = told(flags=["--username", "", "--target", ""], username="variable")
    assert (found.get("username"), found.get("target")) == ("variable", None)


@pytest.mark.parametrize("key", sorted(KEYS | SECRETS))
def test_every_key_has_a_variable(told: Configure, key: str) -> None:
    assert told(**{key: "fake-value"}).get(key) == "fake-value"


@pytest.mark.parametrize("flag", ["--key-passphrase", "--store-keys", "--lease"])
def test_what_is_secret_or_rare_has_no_flag(told: Configure, flag: str) -> None:
    with pytest.raises(click.NoSuchOption, match=flag):
        told(flags=[flag, "fake-value"])


def test_numbers_and_switches_reach_the_settings_as_text(told: Configure) -> None:
    file = (
        f'[profiles.test]\nbase_url = "https://localhost/v2"\nclient_id = "{TEST_ID}"\n'
        'user_agent = "acme-books/3.2"\ntimeout_total = 7.5\ntrust_env = true\nlease = 9'
    )
    found = told(file)
    settings = found.settings()
    assert (settings.timeouts.total, settings.trust_env, found.lease) == (7.5, True, 9.0)
    assert found.client_id == settings.client_id == TEST_ID


TWO = '{}[profiles.test]\nusername = "t"\n[profiles.production]\nusername = "p"'


@pytest.mark.parametrize(
    ("first_line", "wanted", "expected"),
    [
        ("", "test", "t"),
        ("", "production", "p"),
        ('profile = "production"\n', None, "p"),
        ('profile = "production"\n', "test", "t"),
    ],
)
def test_a_profile_is_chosen(
    told: Configure, first_line: str, wanted: str | None, expected: str
) -> None:
    environ = {"profile": wanted} if wanted else {}
    assert told(TWO.format(first_line), **environ).get("username") == expected


def test_the_only_profile_needs_no_choice(told: Configure) -> None:
    assert told('[profiles.mine]\nusername = "m"').profile.name == "mine"


def test_a_file_is_looked_for_here_then_in_the_users_folder(
    told: Configure, tmp_path: Path
) -> None:
    user_file = tmp_path / "user" / "blink-oauth.toml"
    user_file.parent.mkdir()
    user_file.write_text('[profiles.test]\nusername = "user"', "utf-8")
    assert told().get("username") == "user"
    assert told('[profiles.test]\nusername = "here"').get("username") == "here"
    assert told(config=str(user_file)).get("username") == "user"
    refused(lambda: told(config=str(tmp_path / "none.toml")), "There is no file")


def test_paths_count_from_the_file_that_names_them(tmp_path: Path) -> None:
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "blink-oauth.toml").write_text(
        '[profiles.test]\ncertificate = "c.pem"\nkey = "/k.pem"\nstore = "t.db"', "utf-8"
    )
    found = configure({}, folder=tmp_path, user_folder=folder)
    assert found.get("certificate") == str(folder / "c.pem")
    assert found.get("key") == str(Path("/k.pem"))
    assert place_of(found, tmp_path).file == folder / "t.db"


@pytest.mark.parametrize("url", ["sqlite:///t.db", "postgresql+psycopg://localhost/tokens"])
def test_the_url_of_a_store_stays_one(told: Configure, tmp_path: Path, url: str) -> None:
    place = place_of(told(f'[profiles.test]\nstore = "{url}"'), tmp_path)
    anchored = f"sqlite:///{tmp_path / 't.db'}" if "sqlite" in url else url
    assert place.url == anchored


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ('[profiles.test]\nkey_passphrase = "fake-passphrase"', "key_passphrase is a secret"),
        ('[profiles.test]\nstore_keys = "fake-passphrase"', "store_keys is a secret"),
        ('[profiles.test]\nclient = "x"', "unknown key client"),
        ("[profiles.test]\nlease = [1]", "lease must be text or a number"),
        ('[profiles.test]\nenvironment = "staging"', "must be test or production"),
        ('[profiles.test]\nenvironment = ["test"]', "must be test or production"),
        ("[profiles.test]\ntargets = 1", "a table for each target"),
        ("[profiles.test", "cannot be used"),
        ("", "no [profiles.…] table"),
        ("profiles = 1", "no [profiles.…] table"),
        ("[profiles.a]\n[profiles.b]", "more than one profile"),
        ('profile = ["a"]\n[profiles.a]\n[profiles.b]', "has no profile"),
        ("[profiles.test.targets.IIDP00001]", "looks like none of test"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(told: Configure, file: str, what: str) -> None:
    trouble = refused(lambda: told(file), what)
    assert "fake-passphrase" not in trouble.what + trouble.do


def test_a_file_that_is_no_text_is_refused(told: Configure, tmp_path: Path) -> None:
    (tmp_path / "blink-oauth.toml").write_bytes(b"\xff\xfe")
    refused(told, "cannot be read as text")


def test_an_unknown_profile_is_refused(told: Configure) -> None:
    refused(lambda: told(profile="mine"), "There is no profile mine")
    refused(lambda: told("[profiles.test]", profile="mine"), "has no profile mine")


@pytest.mark.parametrize(
    ("profile", "environment"),
    [("test", None), ("production", None), ("mine", "test"), ("mine", "production")],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_the_guard_keeps_the_environments_apart(
    told: Configure, profile: str, environment: str | None, in_file: bool
) -> None:
    meant = environment or profile
    own, foreign = ("X", "P") if meant == "test" else ("P", "X")
    said = f'environment = "{environment}"' if environment else ""
    file = f"[profiles.{profile}]\n{said}" if in_file or environment else None
    ours = told(file, profile=profile, client_id=f"CID{own}0000000002")
    assert ours.client_id == f"CID{own}0000000002"
    assert ours.grant(f"IID{own}00001/u") == Grant(f"IID{own}00001", "u")
    theirs = told(file, profile=profile, client_id=f"CID{foreign}0000000002")
    refused(lambda: theirs.client_id, f"for {meant}. Nothing was sent")
    refused(lambda: theirs.grant(f"IID{foreign}00001/u"), "The target")


def test_without_a_profile_nothing_is_guarded(told: Configure) -> None:
    assert told(client_id=PRODUCTION_ID).client_id == PRODUCTION_ID
    assert told(client_id=TEST_ID).client_id == TEST_ID


def test_what_is_known_of_targets_reaches_the_manager(told: Configure) -> None:
    found = told(
        '[profiles.test]\nauthorize_url = "https://all.example/{target_id}"\n'
        "[profiles.test.targets.IIDX00001]\n"
        'rotates = false\nrate = 2.0\nafter_uncertainty = "hold"\n'
        "[profiles.test.targets.IIDX00002]\n"
    )
    expected = TargetProfile(rotates=False, rate=2.0, after_uncertainty="hold")
    assert found.target_profiles() == {"IIDX00001": expected, "IIDX00002": TargetProfile()}
    assert found.authorize_url("IIDX00001") == "https://all.example/{target_id}"


def test_a_target_has_its_own_authorize_url(told: Configure) -> None:
    found = told('[profiles.test.targets.IIDX00001]\nauthorize_url = "https://bank.example/a"')
    assert found.authorize_url("IIDX00001") == "https://bank.example/a"
    assert found.target_profiles() == {"IIDX00001": TargetProfile()}
    refused(lambda: found.authorize_url("IIDX00002"), "authorize URL of IIDX00002")


@pytest.mark.parametrize("habit", ["rotate = true", "rate = -1", 'after_uncertainty = "never"'])
def test_habits_that_cannot_be_used_are_refused(told: Configure, habit: str) -> None:
    found = told(f"[profiles.test.targets.IIDX00001]\n{habit}")
    refused(found.target_profiles, "The habits of IIDX00001")


def test_a_lease_is_a_number(told: Configure) -> None:
    refused(lambda: told(lease="soon").lease, "BLINK_LEASE")
    assert told().lease == 25.0


@pytest.mark.parametrize(
    ("text", "target", "username", "expected"),
    [
        ("IIDX00001/u", None, None, "u"),
        ("IIDX00001/u/with/slashes", None, None, "u/with/slashes"),
        (None, "IIDX00001", "u", "u"),
        (None, "IIDX00001", None, "from the variable"),
    ],
)
def test_a_grant_is_named_in_either_way(
    told: Configure, text: str | None, target: str | None, username: str | None, expected: str
) -> None:
    given = {"--target": target, "--username": username}
    flags = [word for flag, value in given.items() if value for word in (flag, value)]
    found = told(flags=flags, username="from the variable").grant(text)
    assert found == Grant("IIDX00001", expected)


@pytest.mark.parametrize("text", ["IIDX00001", "/u", "IIDX00001/", ""])
def test_half_a_grant_is_none(told: Configure, text: str) -> None:
    refused(lambda: told().grant(text), "names no grant")
    refused(lambda: told().grant(None), "not said which grant")

"""The configuration: flags over variables over the file, and the check of the environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest

from blink_oauth import Grant
from blink_oauth.authorization import AuthorizationRequest
from blink_oauth_cli.app import store_location
from blink_oauth_cli.configuration import SECRETS, SETTING_NAMES, Configuration, configure
from blink_oauth_cli.errors import CommandError, ExitCode
from blink_oauth_cli.options import configured, given_values, takes_grant
from blink_oauth_keeper import TargetProfile

Configure = Callable[..., Configuration]
TEST_ID, PRODUCTION_ID = "CIDX0000000002", "CIDP0000000002"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Return a function that merges flags, variables and the text of a file."""

    def load_configuration(
        file: str | None = None, *, flags: Sequence[str] = (), **environ: str
    ) -> Configuration:
        if file is not None:
            (tmp_path / "blink-oauth.toml").write_text(file, "utf-8")
        with monkeypatch.context() as variables:
            for name, value in environ.items():
                variables.setenv(f"BLINK_{name.upper()}", value)
            command = configured("")(takes_grant(lambda: None))
            given = given_values(command.make_context("any", list(flags)))
        return configure(given, folder=tmp_path, user_folder=tmp_path / "user")

    return load_configuration


def require_refused(call: Callable[[], object], what: str) -> CommandError:
    """Require a usage error with this phrase, and return the error."""
    with pytest.raises(CommandError) as caught:
        call()
    assert caught.value.code is ExitCode.USAGE
    assert what in caught.value.what
    assert caught.value.do
    return caught.value


def test_flags_override_variables_and_variables_override_the_file(load: Configure) -> None:
    file = '[profiles.test]\nuser_agent = "file/1"\nusername = "file"\ntarget = "IIDX00001"'
    found = load(
        file, flags=["--user-agent", "flag/1"], user_agent="variable/1", username="variable"
    )
    assert [found.get(n) for n in ("user_agent", "username", "target", "ca")] == [
        "flag/1",
        "variable",
        "IIDX00001",
        None,
    ]


def test_an_empty_variable_is_ignored(load: Configure) -> None:
    assert load('[profiles.test]\nusername = "file"', username="").get("username") == "file"


def test_an_empty_flag_is_ignored(load: Configure) -> None:
    found = load(flags=["--username", "", "--target", ""], username="variable")
    assert (found.get("username"), found.get("target")) == ("variable", None)


@pytest.mark.parametrize("key", sorted(SETTING_NAMES | SECRETS))
def test_every_key_has_a_variable(load: Configure, key: str) -> None:
    assert load(**{key: "fake-value"}).get(key) == "fake-value"


@pytest.mark.parametrize("flag", ["--key-passphrase", "--store-keys", "--lease"])
def test_secrets_and_the_lease_have_no_flag(load: Configure, flag: str) -> None:
    with pytest.raises(click.NoSuchOption, match=flag):
        load(flags=[flag, "fake-value"])


def test_numbers_and_booleans_of_the_file_reach_the_settings(load: Configure) -> None:
    file = (
        f'[profiles.test]\nbase_url = "https://localhost/v2"\nclient_id = "{TEST_ID}"\n'
        'user_agent = "acme-books/3.2"\ntimeout_total = 7.5\ntrust_env = true\nlease = 9'
    )
    found = load(file)
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
def test_the_variable_or_the_file_chooses_the_profile(
    load: Configure, first_line: str, wanted: str | None, expected: str
) -> None:
    environ = {"profile": wanted} if wanted else {}
    assert load(TWO.format(first_line), **environ).get("username") == expected


def test_the_only_profile_is_the_default(load: Configure) -> None:
    assert load('[profiles.mine]\nusername = "m"').profile.name == "mine"


def test_the_working_folder_is_searched_before_the_users_folder(
    load: Configure, tmp_path: Path
) -> None:
    user_file = tmp_path / "user" / "blink-oauth.toml"
    user_file.parent.mkdir()
    user_file.write_text('[profiles.test]\nusername = "user"', "utf-8")
    assert load().get("username") == "user"
    assert load('[profiles.test]\nusername = "here"').get("username") == "here"
    assert load(config=str(user_file)).get("username") == "user"
    require_refused(lambda: load(config=str(tmp_path / "none.toml")), "There is no file")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "blink-oauth.toml").write_text(
        '[profiles.test]\ncertificate = "c.pem"\nkey = "/k.pem"\nstore = "t.db"', "utf-8"
    )
    found = configure({}, folder=tmp_path, user_folder=folder)
    assert found.get("certificate") == str(folder / "c.pem")
    assert found.get("key") == str(Path("/k.pem"))
    assert store_location(found, tmp_path).file == folder / "t.db"


@pytest.mark.parametrize("url", ["sqlite:///t.db", "postgresql+psycopg://localhost/tokens"])
def test_a_store_may_be_a_url(load: Configure, tmp_path: Path, url: str) -> None:
    location = store_location(load(f'[profiles.test]\nstore = "{url}"'), tmp_path)
    anchored = (None, tmp_path / "t.db") if "sqlite" in url else (url, None)
    assert (location.url, location.file) == anchored


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
        ("[profiles.test.targets.IIDP00001]", "does not look like one of test"),
    ],
)
def test_an_unusable_file_is_refused(load: Configure, file: str, what: str) -> None:
    error = require_refused(lambda: load(file), what)
    assert "fake-passphrase" not in error.what + error.do


def test_a_file_that_is_not_utf8_is_refused(load: Configure, tmp_path: Path) -> None:
    (tmp_path / "blink-oauth.toml").write_bytes(b"\xff\xfe")
    require_refused(load, "cannot be read as text")


def test_an_unknown_profile_is_refused(load: Configure) -> None:
    require_refused(lambda: load(profile="mine"), "There is no profile mine")
    require_refused(lambda: load("[profiles.test]", profile="mine"), "has no profile mine")


@pytest.mark.parametrize(
    ("profile", "environment"),
    [("test", None), ("production", None), ("mine", "test"), ("mine", "production")],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_an_id_of_the_other_environment_is_refused(
    load: Configure, profile: str, environment: str | None, in_file: bool
) -> None:
    expected = environment or profile
    own, foreign = ("X", "P") if expected == "test" else ("P", "X")
    section = f'environment = "{environment}"' if environment else ""
    file = f"[profiles.{profile}]\n{section}" if in_file or environment else None
    own_config = load(file, profile=profile, client_id=f"CID{own}0000000002")
    assert own_config.client_id == f"CID{own}0000000002"
    assert own_config.grant(f"IID{own}00001/u") == Grant(f"IID{own}00001", "u")
    foreign_config = load(file, profile=profile, client_id=f"CID{foreign}0000000002")
    require_refused(lambda: foreign_config.client_id, f"for {expected}. Nothing was sent")
    require_refused(lambda: foreign_config.grant(f"IID{foreign}00001/u"), "The target")


def test_without_a_profile_ids_of_both_environments_are_accepted(load: Configure) -> None:
    assert load(client_id=PRODUCTION_ID).client_id == PRODUCTION_ID
    assert load(client_id=TEST_ID).client_id == TEST_ID


def test_target_tables_become_target_profiles(load: Configure) -> None:
    found = load(
        '[profiles.test]\nauthorize_url = "https://all.example/{target_id}"\n'
        "[profiles.test.targets.IIDX00001]\n"
        'rotates = false\nrate = 2.0\nafter_uncertainty = "hold"\n'
        "[profiles.test.targets.IIDX00002]\n"
    )
    expected = TargetProfile(rotates=False, rate=2.0, after_uncertainty="hold")
    assert found.target_profiles() == {"IIDX00001": expected, "IIDX00002": TargetProfile()}
    assert found.authorize_url("IIDX00001") == "https://all.example/{target_id}"


def test_a_target_may_have_an_authorize_url_of_its_own(load: Configure) -> None:
    found = load('[profiles.test.targets.IIDX00001]\nauthorize_url = "https://bank.example/a"')
    assert found.authorize_url("IIDX00001") == "https://bank.example/a"
    assert found.target_profiles() == {"IIDX00001": TargetProfile()}
    require_refused(lambda: found.authorize_url("IIDX00002"), "authorize URL of IIDX00002")


TWO_URLS = (
    '[profiles.test]\nauthorize_url = "https://all.example/{target_id}"\n'
    '[profiles.test.targets.IIDX00001]\nauthorize_url = "https://own.example/{target_id}"\n'
    '[profiles.test.targets.IIDX00003]\nauthorize_url = ""\n'
)


def test_a_targets_own_authorize_url_overrides_that_of_the_profile(load: Configure) -> None:
    found = load(TWO_URLS)
    assert found.authorize_url("IIDX00001") == "https://own.example/{target_id}"
    for other in ("IIDX00002", "IIDX00003"):
        assert found.authorize_url(other) == "https://all.example/{target_id}"


def test_a_flag_or_variable_overrides_every_authorize_url_of_the_file(load: Configure) -> None:
    given = "https://given.example/{target_id}"
    assert load(TWO_URLS, authorize_url=given).authorize_url("IIDX00001") == given
    # The same URL as the profile's, but given: it still overrides the target's own.
    profile_url = "https://all.example/{target_id}"
    assert load(TWO_URLS, authorize_url=profile_url).authorize_url("IIDX00001") == profile_url


@pytest.mark.parametrize(
    ("target_id", "host"), [("IIDX00001", "own.example"), ("IIDX00002", "all.example")]
)
def test_the_target_id_is_filled_into_both_authorize_urls(
    load: Configure, target_id: str, host: str
) -> None:
    grant = Grant(target_id, "u")
    request = AuthorizationRequest.new(TEST_ID, grant, "http://127.0.0.1/", key="fake-key")
    url = request.url(load(TWO_URLS).authorize_url(target_id))
    assert urlsplit(url)[1:3] == (host, f"/{target_id}")


@pytest.mark.parametrize(
    "setting",
    ["rotate = true", "rate = -1", 'after_uncertainty = "never"', 'authorize_uri = "https://…"'],
)
def test_an_unusable_target_table_is_refused(load: Configure, setting: str) -> None:
    found = load(f"[profiles.test.targets.IIDX00001]\n{setting}")
    require_refused(found.target_profiles, "The target profile of IIDX00001")


def test_a_lease_must_be_a_number(load: Configure) -> None:
    require_refused(lambda: load(lease="soon").lease, "BLINK_LEASE")
    assert load().lease == 25.0


@pytest.mark.parametrize(
    ("text", "target", "username", "expected"),
    [
        ("IIDX00001/u", None, None, "u"),
        ("IIDX00001/u/with/slashes", None, None, "u/with/slashes"),
        (None, "IIDX00001", "u", "u"),
        (None, "IIDX00001", None, "from the variable"),
    ],
)
def test_a_grant_is_given_as_argument_or_as_options(
    load: Configure, text: str | None, target: str | None, username: str | None, expected: str
) -> None:
    given = {"--target": target, "--username": username}
    flags = [word for flag, value in given.items() if value for word in (flag, value)]
    found = load(flags=flags, username="from the variable").grant(text)
    assert found == Grant("IIDX00001", expected)


@pytest.mark.parametrize("text", ["IIDX00001", "/u", "IIDX00001/", ""])
def test_an_incomplete_grant_is_refused(load: Configure, text: str) -> None:
    require_refused(lambda: load().grant(text), "names no grant")
    for flag, missing in (("--target", "username"), ("--username", "target")):
        found = load(flags=[flag, "IIDX00001"])
        error = require_refused(partial(found.grant, None), f"No {missing} given.")
        assert error.do == f"Pass --{missing} (BLINK_{missing.upper()}), or TARGET/USERNAME."
    error = require_refused(lambda: load().grant(None), "No grant given.")
    assert "--target (BLINK_TARGET) and --username (BLINK_USERNAME)" in error.do

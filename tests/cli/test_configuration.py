"""The configuration: flags over variables over the file, and the check of the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest

from blink_oauth import Grant, InvalidInputError
from blink_oauth.authorization import AuthorizationRequest
from blink_oauth.settings import REVOCATION_FIELDS
from blink_oauth_cli.app import store_location
from blink_oauth_cli.configuration import (
    SECRETS,
    SETTING_NAMES,
    TEST_HOST,
    Configuration,
    configure,
)
from blink_oauth_cli.errors import CommandError, ExitCode
from blink_oauth_cli.options import configured, given_values, names_of_variables, takes_grant
from blink_oauth_cli.store_opening import location_of
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
            context = command.make_context("any", list(flags))
            given = given_values(context)
            names = names_of_variables(context)
        return configure(given, folder=tmp_path, user_folder=tmp_path / "user", variables=names)

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


@pytest.mark.parametrize(
    "flag", ["--key-passphrase", "--store-keys", "--webhook-secrets", "--webhook-url", "--lease"]
)
def test_what_may_be_secret_and_the_lease_have_no_flag(load: Configure, flag: str) -> None:
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


COMPLETE = (
    f'[profiles.test]\nbase_url = "https://localhost/v2"\nclient_id = "{TEST_ID}"\n'
    'user_agent = "acme-books/3.2"\n'
)


@pytest.mark.parametrize(
    ("line", "value", "fields"),
    [
        ("", None, REVOCATION_FIELDS),
        ("revocation_fields = []", None, ()),
        ('revocation_fields = "none"', None, ()),
        ('revocation_fields = ""', None, REVOCATION_FIELDS),
        ('revocation_fields = ["username", "client_id"]', None, ("client_id", "username")),
        ('revocation_fields = "username, client_id"', None, ("client_id", "username")),
        ('revocation_fields = ["username"]', "client_id", ("client_id",)),
        ('revocation_fields = ["username"]', "none", ()),
        ('revocation_fields = ["username"]', "", ("username",)),
        ('revocation_fields = ["username"]', "\n", ("username",)),
        ("", "", REVOCATION_FIELDS),
    ],
)
def test_the_revocation_fields_are_a_list_that_a_variable_replaces(
    load: Configure, line: str, value: str | None, fields: tuple[str, ...]
) -> None:
    environ = {} if value is None else {"revocation_fields": value}
    assert load(COMPLETE + line, **environ).settings().revocation_fields == fields


@pytest.mark.parametrize("value", ["[1]", '[""]', '[["username"]]', "{ username = true }"])
def test_revocation_fields_that_are_no_names_are_refused(load: Configure, value: str) -> None:
    require_refused(lambda: load(f"{COMPLETE}revocation_fields = {value}"), "revocation_fields")


def test_an_unknown_revocation_field_of_the_file_is_refused(load: Configure) -> None:
    found = load(f'{COMPLETE}revocation_fields = ["user_name"]')
    with pytest.raises(InvalidInputError, match="token_type_hint, client_id, username"):
        found.settings()


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
        ('[profiles.test]\nwebhook_secrets = "fake-passphrase"', "webhook_secrets is a secret"),
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
        ('[profiles.test]\nstore = "t\\u0000.db"', "store must be text or a number"),
    ],
)
def test_an_unusable_file_is_refused(load: Configure, file: str, what: str) -> None:
    error = require_refused(lambda: load(file), what)
    assert "fake-passphrase" not in error.what + error.do


def test_a_file_that_is_not_utf8_is_refused(load: Configure, tmp_path: Path) -> None:
    (tmp_path / "blink-oauth.toml").write_bytes(b"\xff\xfe")
    require_refused(load, "cannot be read as text")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_may_begin_with_a_byte_order_mark(
    load: Configure, tmp_path: Path, encoding: str
) -> None:
    text = '[profiles.test]\r\nusername = "ü"\r\n'
    (tmp_path / "blink-oauth.toml").write_bytes(text.encode(encoding))
    assert load().get("username") == "ü"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends_behind_variables_and_flags_do_not_matter(
    load: Configure, tmp_path: Path, line_end: str
) -> None:
    variables = {"profile": "test", "target": "IIDX00001", "username": "u", "store": "t.db"}
    variables["store_keys_file"] = "t.keys"
    given = {name: f"{value}{line_end}" for name, value in variables.items()}
    found = load("[profiles.test]", flags=["--client-id", f"{TEST_ID}{line_end}"], **given)
    assert {name: found.get(name) for name in variables} == variables
    assert found.client_id == TEST_ID
    location = location_of(f"{tmp_path / 't.db'}{line_end}", keys_file=f"t.keys{line_end}")
    assert (location.file, location.keys_file) == (tmp_path / "t.db", Path("t.keys"))
    assert load("[profiles.test]", username=line_end).get("username") is None


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("https://bank.example/consent-flow/v2", False),
        ("https://localhost.example/v2", False),
        ("https://user:fake@127.0.0.1.example/v2", False),
        ("https://127.0.0.1:8443/v2", True),
        ("https://localhost/v2", True),
        (f"https://{TEST_HOST}/v2", True),
        ("https://bank.example/bankingservices/xe/v2", True),
    ],
)
@pytest.mark.parametrize("file", [None, "[profiles.test]"])
def test_a_test_profile_takes_no_url_from_a_variable_that_may_be_production(
    load: Configure, file: str | None, url: str, *, used: bool
) -> None:
    if used:
        assert load(file, profile="test", base_url=url).get("base_url") == url
        return
    with pytest.raises(CommandError, match="BLINK_BASE_URL does not look like test") as caught:
        load(file, profile="test", base_url=url)
    assert caught.value.code is ExitCode.USAGE
    assert load(file, flags=["--base-url", url], profile="test").get("base_url") == url
    assert load("[profiles.mine]", base_url=url).get("base_url") == url


HERE = '[profiles.test]\nbase_url = "https://evil.example/v2"\n'


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ("", {}),
        ('store = "user/data/test/tokens.db"', {}),
        ('store = "link.db"', {}),
        ('store = "t.db"\nstore_keys_file = "user/data/test/tokens.db.keys"', {}),
        ('store = "t.db"\nstore_keys_file = "../t.keys"', {}),
        ('store = "t.db"', {"store_keys": "fake-key"}),
        ('store = "t.db"', {"store_keys_file": "/run/secrets/keys"}),
        ('store = "/var/lib/tokens.db"', {}),
        ('store = "sqlite:///../tokens.db"', {}),
        ("", {"store": "/var/lib/tokens.db"}),
        ("", {"store": "postgresql://app@db.example/app", "store_keys": "fake-key"}),
        ('store = "postgresql://app@db.example/app"', {"store_keys_file": "/run/secrets/keys"}),
    ],
)
@pytest.mark.parametrize("key", ["base_url", "ca", "webhook_url"])
def test_a_file_of_the_working_folder_directs_only_the_tokens_of_its_folder(
    load: Configure, tmp_path: Path, settings: str, variables: dict[str, str], key: str
) -> None:
    data_folder = tmp_path / "user" / "data"
    file = HERE.replace("base_url", key) + settings
    (tmp_path / "link.db").symlink_to(data_folder / "test" / "tokens.db")
    found = load(file, **variables)
    error = require_refused(lambda: store_location(found, data_folder), "names the server")
    assert str(tmp_path / "blink-oauth.toml") in error.what
    named = load(file, flags=["--config", str(tmp_path / "blink-oauth.toml")], **variables)
    assert store_location(named, data_folder)


@pytest.mark.parametrize("flag", [[], ["--store", "/var/lib/tokens.db"]])
def test_a_flag_does_not_give_a_found_file_another_store(
    load: Configure, tmp_path: Path, flag: list[str]
) -> None:
    found = load(HERE + 'store = "t.db"', flags=flag)
    if flag:
        require_refused(lambda: store_location(found, tmp_path / "data"), "names the server")
    else:
        assert store_location(found, tmp_path / "data").file == tmp_path / "t.db"


def test_a_found_file_without_a_server_may_use_any_store(load: Configure, tmp_path: Path) -> None:
    found = load('[profiles.test]\nusername = "u"', base_url="https://localhost/v2")
    assert store_location(found, tmp_path / "data").file == tmp_path / "data/test/tokens.db"


def test_the_file_in_the_users_folder_may_use_the_default_store(tmp_path: Path) -> None:
    (tmp_path / "blink-oauth.toml").write_text(HERE, "utf-8")
    found = configure({}, folder=tmp_path, user_folder=tmp_path)
    assert store_location(found, tmp_path / "data").file == tmp_path / "data/test/tokens.db"


def link_of_another_user(file: Path) -> None:
    file.symlink_to(file.rename(file.with_name("own.toml")))
    os.chown(file, 12345, -1, follow_symlinks=False)


def link_to_shared(file: Path) -> None:
    shared = file.parent / "shared"
    shared.mkdir()
    target = file.rename(shared / "own.toml")
    shared.chmod(0o777)
    file.symlink_to(target)


OTHERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "file writable by the group": ("written", lambda file: file.chmod(0o660)),
    "file writable by all": ("written", lambda file: file.chmod(0o646)),
    "folder writable by all": ("written", lambda file: file.parent.chmod(0o777)),
    "folder writable by the group": ("written", lambda file: file.parent.chmod(0o770)),
    "file of another user": ("another user", lambda file: os.chown(file, 12345, -1)),
    "folder of another user": ("another user", lambda file: os.chown(file.parent, 12345, -1)),
    "link of another user": ("another user", link_of_another_user),
    "link to a file that others can write": ("written", link_to_shared),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_found_file_that_others_can_write_is_refused_and_not_ignored(
    load: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    phrase, change = OTHERS[name]
    file = tmp_path / "blink-oauth.toml"
    file.write_text('[profiles.test]\nusername = "u"', "utf-8")
    file.chmod(0o600)
    assert load().get("username") == "u"
    if os.geteuid() != 0 and "another user" in name:
        # Without the right to give a file away, this process becomes the other user.
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    else:
        change(file)
    error = require_refused(load, phrase)
    assert f"--config {file}" in error.do
    assert load(config=str(file)).get("username") == "u"


def test_a_sticky_folder_of_this_user_may_hold_the_file(load: Configure, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert load('[profiles.test]\nusername = "u"').get("username") == "u"


OWN_PLACE = (
    f'[profiles.test]\nbase_url = "https://test.example/v2"\nclient_id = "{TEST_ID}"\n'
    'certificate = "c.pem"\nkey = "k.pem"\nca = "ca.pem"\nstore = "t.db"\n'
    'store_keys_file = "t.keys"\nkey_passphrase_file = "p"\n'
    'webhook_url = "https://test.example/hook"\nwebhook_secrets_file = "w"\n'
    'webhook_ca = "wca.pem"\n'
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("base_url", "https://production.example/v2"),
        ("base_url", "https://test.example:8443/v2"),
        ("client_id", "CIDX0000000003"),
        ("certificate", "/etc/c.pem"),
        ("key", "/etc/k.pem"),
        ("ca", "/etc/ca.pem"),
        ("store", "/var/lib/t.db"),
        ("store", "postgresql://app:geheim@db.example/app"),
        ("store_keys_file", "/run/t.keys"),
        ("store_keys", "geheim"),
        ("key_passphrase", "geheim"),
        ("key_passphrase_file", "/run/p"),
        ("webhook_url", "https://production.example/geheim"),
        ("webhook_ca", "/etc/receivers.pem"),
        ("webhook_secrets", "geheim"),
        ("webhook_secrets_file", "/run/w"),
    ],
)
def test_a_variable_that_contradicts_the_place_of_a_profile_is_refused_by_name(
    load: Configure, name: str, value: str
) -> None:
    error = require_refused(lambda: load(OWN_PLACE, **{name: value}), "The profile test of")
    assert f"BLINK_{name.upper()}." in error.what.replace(" Nothing", "")
    assert f"Unset BLINK_{name.upper()}" in error.do
    assert "geheim" not in error.what + error.do


def test_a_flag_or_an_equal_variable_does_not_contradict_a_profile(
    load: Configure, tmp_path: Path
) -> None:
    flags = ["--base-url", "https://other.example/v2"]
    assert load(OWN_PLACE, flags=flags).get("base_url") == flags[1]
    assert load(OWN_PLACE, flags=flags, base_url="https://x.example").get("base_url") == flags[1]
    equal = {"base_url": "https://test.example/v2/", "store": f"sqlite:///{tmp_path / 't.db'}"}
    found = load(OWN_PLACE, **equal, certificate=str(tmp_path / "c.pem"), username="u")
    assert (found.get("base_url"), found.get("username")) == (equal["base_url"], "u")


@pytest.mark.parametrize(
    "url",
    [
        "https://api-qa.np.six-group.com/v2",
        "https://blink.example/api/bankingservices/xe/b-link/consent-flow/v2",
        "https://blink.example/api/bankingservices/xp/b-link/consent-flow/v2",
    ],
)
def test_a_base_url_of_test_is_refused_in_a_profile_of_production(
    load: Configure, url: str
) -> None:
    ids = {"base_url": url, "user_agent": "a/1"}
    found = load(profile="production", client_id=PRODUCTION_ID, **ids)
    require_refused(found.settings, "The base URL")
    assert load(profile="test", client_id=TEST_ID, **ids).settings()
    assert load(client_id=PRODUCTION_ID, **ids).settings()


@pytest.mark.parametrize(
    "url",
    [
        "postgres//app:geheim@db.example/app",
        "postgresql:/app:geheim@db.example/app",
        "postgresql:app:geheim@db.example/app",
        "app:geheim@db.example/app",
        "sqlite:/app:geheim",
    ],
)
def test_a_malformed_url_of_a_store_is_no_file_and_not_repeated(url: str) -> None:
    error = require_refused(lambda: location_of(url, keys_file=None), "no ://")
    assert "geheim" not in error.what + error.do


def test_without_folders_only_what_needs_one_is_refused(load: Configure) -> None:
    found = configure({"store": "/t.db"}, folder=None, user_folder=None)
    assert store_location(found, None).file == Path("/t.db")
    found = configure({}, folder=None, user_folder=None)
    error = require_refused(lambda: store_location(found, None), "no home folder")
    assert "BLINK_STORE" in error.do
    require_refused(
        lambda: configure({"profile": "mine"}, folder=None, user_folder=None), "no profile mine"
    )


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

"""The authorization request: its state and its URL; the code or the failure of a callback."""

from __future__ import annotations

import random
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import pytest

from blink_oauth.context import Grant
from blink_oauth.errors import InvalidInputError
from blink_oauth_cli.login_authorization import (
    AuthorizationCode,
    AuthorizationRequest,
    FailedCallback,
    FailureReason,
    authorize_url,
    new_authorization_request,
    printable,
    read_callback,
)

CLIENT, TARGET, USER = "CIDX0000000002", "IIDX00001", "u-4711"
URI = "http://127.0.0.1:8765/callback"
KEY = b"fake-key"
TEMPLATE = "https://bank.example/{target_id}/authorize"
CODE = "fake-code-1"


def request_of(
    *,
    client: str = CLIENT,
    target: str = TARGET,
    user: str = USER,
    uri: str = URI,
    nonce: bytes = b"n",
    key: bytes = KEY,
) -> AuthorizationRequest:
    return new_authorization_request(
        client, Grant(target, user), uri, random=lambda n: nonce * n, key=key
    )


REQUEST = request_of()
STATE = REQUEST.state.reveal()


def test_the_state_depends_only_on_its_inputs() -> None:
    assert request_of().state == REQUEST.state
    assert len(STATE) == 64
    assert quote(STATE, safe="") == STATE


@pytest.mark.parametrize(
    "other",
    [
        request_of(client="CIDX0000000003"),
        request_of(target="IIDX00002"),
        request_of(user="u-4712"),
        request_of(uri="http://127.0.0.1:8766/callback"),
        request_of(nonce=b"m"),
        request_of(key=b"fake-other-key"),
        # The same characters, divided differently between target and username.
        request_of(target=f"{TARGET}u", user=USER[1:]),
    ],
)
def test_a_state_is_bound_to_each_field_of_its_request(other: AuthorizationRequest) -> None:
    assert other.state != REQUEST.state
    result = read_callback(REQUEST, urlencode({"code": CODE, "state": other.state.reveal()}))
    assert isinstance(result, FailedCallback)
    assert result.reason is FailureReason.OTHER_LOGIN
    assert "another login" in result.what


def test_two_requests_for_the_same_grant_have_different_states() -> None:
    first, second = (
        new_authorization_request(CLIENT, Grant(TARGET, USER), URI, key=KEY) for _ in range(2)
    )
    assert first.state != second.state


def test_a_repr_shows_neither_state_nor_code() -> None:
    code = read_callback(REQUEST, urlencode({"code": CODE, "state": STATE}))
    assert isinstance(code, AuthorizationCode)
    assert code.secret.reveal() == CODE
    assert CODE not in repr(code)
    assert STATE not in repr(REQUEST)


@pytest.mark.parametrize(
    ("query", "reason", "ends_login", "phrase"),
    [
        ("", FailureReason.NO_STATE, False, "without a state"),
        (f"code={CODE}", FailureReason.NO_STATE, False, "without a state"),
        ("error=access_denied", FailureReason.NO_STATE, False, "without a state"),
        (f"code={CODE}&state=", FailureReason.WRONG_STATE, False, "wrong state"),
        (f"code={CODE}&state=guess", FailureReason.WRONG_STATE, False, "wrong state"),
        (f"code={CODE}&state=%FF%F0%9F%98%80", FailureReason.WRONG_STATE, False, "wrong state"),
        (f"code={CODE}&state={STATE}x", FailureReason.WRONG_STATE, False, "wrong state"),
        (
            f"code={CODE}&state={STATE.swapcase()}",
            FailureReason.OTHER_LOGIN,
            False,
            "another login",
        ),
        (
            f"error=access_denied&state={'A' * 64}",
            FailureReason.OTHER_LOGIN,
            False,
            "another login",
        ),
        (
            f"code={CODE}&state={STATE}&state={STATE}",
            FailureReason.REPEATED_STATE,
            False,
            "more than one",
        ),
        (
            f"code={CODE}&state=x&state={STATE}",
            FailureReason.REPEATED_STATE,
            False,
            "more than one",
        ),
        ("&".join(f"p{n}=1" for n in range(99)), FailureReason.UNREADABLE, False, "cannot be read"),
        (
            f"code={CODE}&code=x&state={STATE}",
            FailureReason.REPEATED_PARAMETER,
            True,
            "more than once",
        ),
        (
            f"code={CODE}&a=1&a=1&state={STATE}",
            FailureReason.REPEATED_PARAMETER,
            True,
            "more than once",
        ),
        (f"state={STATE}", FailureReason.NO_CODE, True, "no usable code"),
        (f"code=&state={STATE}", FailureReason.NO_CODE, True, "no usable code"),
        (f"code=a%0D%0Ab&state={STATE}", FailureReason.NO_CODE, True, "no usable code"),
        (
            f"error=access_denied&state={STATE}",
            FailureReason.ACCESS_DENIED,
            True,
            "consent was refused",
        ),
        (f"error=server_error&state={STATE}", FailureReason.BANK_ERROR, True, "it failed"),
        (
            f"error=invalid_scope&state={STATE}",
            FailureReason.BANK_ERROR,
            True,
            "the scope is wrong",
        ),
        (f"error=odd&state={STATE}", FailureReason.BANK_ERROR, True, "it gives no code (odd)"),
        (f"error=&state={STATE}", FailureReason.BANK_ERROR, True, "no error code"),
        (
            f"error=access_denied&code={CODE}&state={STATE}",
            FailureReason.ACCESS_DENIED,
            True,
            "refused",
        ),
    ],
)
def test_a_callback_without_a_code_of_this_login_fails(
    query: str, reason: FailureReason, ends_login: bool, phrase: str
) -> None:
    result = read_callback(REQUEST, query)
    assert isinstance(result, FailedCallback)
    assert (result.reason, result.ends_login) == (reason, ends_login)
    assert phrase in result.what
    assert ("goes on waiting" in result.do) is not ends_login
    assert CODE not in f"{result}"
    assert STATE not in f"{result}"


def test_unknown_parameters_are_ignored() -> None:
    assert isinstance(
        read_callback(REQUEST, f"code={CODE}&iss=x&state={STATE}&session_state="), AuthorizationCode
    )


def test_the_banks_error_description_is_cut_and_printable() -> None:
    description = "\x1b[2J\u202e\r\n" + "long " * 100
    query = urlencode({"error": "access_denied", "error_description": description, "state": STATE})
    result = read_callback(REQUEST, query)
    assert isinstance(result, FailedCallback)
    assert "long long" in result.what
    assert result.what.isprintable()
    assert len(result.what) < 400
    assert printable("abc", 2) == "ab…"


def test_random_queries_without_the_state_never_raise_and_never_end_the_login() -> None:
    generator = random.Random(4711)
    fragments = [
        "code=",
        "state=",
        "error=",
        "&",
        "=",
        "%",
        "%00",
        ";",
        "?",
        "\xff",
        STATE[:63],
        CODE,
    ]
    for _ in range(3_000):
        query = "".join(generator.choices(fragments, k=generator.randrange(12)))
        result = read_callback(REQUEST, query)
        assert isinstance(result, FailedCallback)
        assert not result.ends_login


def test_the_authorize_url_has_every_parameter() -> None:
    template = f"{TEMPLATE}?lang=de&client={{client_id}}"
    url = authorize_url(template, REQUEST, {"scope": "accounts read"})
    parts = urlsplit(url)
    assert (parts.netloc, parts.path) == ("bank.example", f"/{TARGET}/authorize")
    assert dict(parse_qsl(parts.query)) == {
        "lang": "de",
        "client": CLIENT,
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": URI,
        "username": USER,
        "state": STATE,
        "scope": "accounts read",
    }


def test_a_username_with_special_characters_is_encoded() -> None:
    name = "ü & {client_id}=%41#?"
    url = authorize_url(TEMPLATE, request_of(user=name), {})
    assert parse_qs(urlsplit(url).query)["username"] == [name]


def test_a_target_cannot_change_the_path() -> None:
    url = authorize_url(TEMPLATE, request_of(target="../x?y#z"), {})
    assert urlsplit(url).path == "/..%2Fx%3Fy%23z/authorize"


@pytest.mark.parametrize("host", ["127.0.0.1:80", "[::1]:80", "localhost:80"])
def test_plain_http_is_accepted_on_loopback(host: str) -> None:
    assert authorize_url(f"http://{host}/a", REQUEST, {}).startswith(f"http://{host}/a?")


@pytest.mark.parametrize(
    ("template", "phrase"),
    [
        ("http://bank.example/a", "https://"),
        ("http://127.0.0.1.bank.example/a", "https://"),
        ("javascript:alert(1)", "name a host"),
        ("file:///etc/passwd", "name a host"),
        ("https:///a", "name a host"),
        ("https://user@bank.example/a", "neither a user"),
        ("https://bank.example/a#b", "fragment"),
        ("https://bank.example/a#", "fragment"),
        ("https://bank.example:99999/a", "is no URL"),
        ("https://[bank/a", "is no URL"),
        ("https://bank.example/{username}", "no other braces"),
        ("https://bank.example/a b", "visible ASCII"),
        ("https://bank.example/\n", "visible ASCII"),
        ("https://bänk.example/", "visible ASCII"),
        ("", "name a host"),
        ("https://bank.example/?state=x", "state is there already"),
        ("https://bank.example/?a=1&a=2", "a is there already"),
    ],
)
def test_an_unusable_authorize_url_is_refused(template: str, phrase: str) -> None:
    with pytest.raises(InvalidInputError, match=phrase) as caught:
        authorize_url(template, REQUEST, {})
    assert "Nothing was sent." in str(caught.value)


@pytest.mark.parametrize(
    "name", ["response_type", "client_id", "redirect_uri", "username", "state", "lang"]
)
def test_a_further_parameter_must_not_override_another(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} is there already"):
        authorize_url(f"{TEMPLATE}?lang=de", REQUEST, {name: "x"})

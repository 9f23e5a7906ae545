"""The authorization request: its state and its URL; the code or the failure of a callback."""

from __future__ import annotations

import random
import traceback
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import pytest

from blink_oauth.authorization import (
    AuthorizationCode,
    AuthorizationRequest,
    FailedCallback,
    FailureReason,
    printable,
)
from blink_oauth.context import Grant
from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret

CLIENT, TARGET, USER = "CIDX0000000002", "IIDX00001", "u-4711"
URI = "http://127.0.0.1:8765/callback"
KEY = "fake-key"
TEMPLATE = "https://bank.example/{target_id}/authorize"
CODE = "fake-code-1"


def request_of(
    *,
    client: str = CLIENT,
    target: str = TARGET,
    user: str = USER,
    uri: str = URI,
    nonce: bytes = b"n",
    key: str = KEY,
) -> AuthorizationRequest:
    return AuthorizationRequest.new(
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
        request_of(key="fake-other-key"),
        # The same characters, divided differently between target and username.
        request_of(target=f"{TARGET}u", user=USER[1:]),
    ],
)
def test_a_state_is_bound_to_each_field_of_its_request(other: AuthorizationRequest) -> None:
    assert other.state != REQUEST.state
    result = REQUEST.read_callback(urlencode({"code": CODE, "state": other.state.reveal()}))
    assert isinstance(result, FailedCallback)
    assert result.reason is FailureReason.OTHER_LOGIN


def test_two_requests_for_the_same_grant_have_different_states() -> None:
    first, second = (
        AuthorizationRequest.new(CLIENT, Grant(TARGET, USER), URI, key=KEY) for _ in range(2)
    )
    assert first.state != second.state


def test_a_repr_shows_neither_state_nor_code() -> None:
    code = REQUEST.read_callback(urlencode({"code": CODE, "state": STATE}))
    assert isinstance(code, AuthorizationCode)
    assert code.code.reveal() == CODE
    assert CODE not in repr(code)
    assert STATE not in repr(REQUEST)


# Query, reason, and whether the callback has the state of the request.
FAILED: list[tuple[str, FailureReason, bool]] = [
    ("", FailureReason.NO_STATE, False),
    (f"code={CODE}", FailureReason.NO_STATE, False),
    (f"https://app.example/callback?code={CODE}&state={STATE}", FailureReason.WHOLE_URL, False),
    (f"/callback?state={STATE}&code={CODE}", FailureReason.WHOLE_URL, False),
    (f"?code={CODE}&state={STATE}", FailureReason.WHOLE_URL, False),
    ("error=access_denied", FailureReason.NO_STATE, False),
    (f"code={CODE}&state=", FailureReason.WRONG_STATE, False),
    (f"code={CODE}&state=guess", FailureReason.WRONG_STATE, False),
    (f"code={CODE}&state=%FF%F0%9F%98%80", FailureReason.WRONG_STATE, False),
    (f"code={CODE}&state=\ud800", FailureReason.WRONG_STATE, False),
    (f"code={CODE}&state={STATE}x", FailureReason.WRONG_STATE, False),
    (f"code={CODE}&state={STATE.swapcase()}", FailureReason.OTHER_LOGIN, False),
    (f"error=access_denied&state={'A' * 64}", FailureReason.OTHER_LOGIN, False),
    (f"code={CODE}&state={STATE}&state={STATE}", FailureReason.REPEATED_STATE, False),
    (f"code={CODE}&state=x&state={STATE}", FailureReason.REPEATED_STATE, False),
    ("&".join(f"p{n}=1" for n in range(99)), FailureReason.UNREADABLE, False),
    (f"code={CODE}&code=x&state={STATE}", FailureReason.REPEATED_PARAMETER, True),
    (f"code={CODE}&a=1&a=1&state={STATE}", FailureReason.REPEATED_PARAMETER, True),
    (f"state={STATE}", FailureReason.NO_CODE, True),
    (f"code=&state={STATE}", FailureReason.NO_CODE, True),
    (f"code=a%0D%0Ab&state={STATE}", FailureReason.NO_CODE, True),
    (f"error=access_denied&state={STATE}", FailureReason.ACCESS_DENIED, True),
    (f"error=server_error&state={STATE}", FailureReason.BANK_ERROR, True),
    (f"error=invalid_scope&state={STATE}", FailureReason.BANK_ERROR, True),
    (f"error=odd&state={STATE}", FailureReason.BANK_ERROR, True),
    (f"error=&state={STATE}", FailureReason.BANK_ERROR, True),
    (f"error=access_denied&code={CODE}&state={STATE}", FailureReason.ACCESS_DENIED, True),
]


@pytest.mark.parametrize(("query", "reason", "answers_request"), FAILED)
def test_a_callback_without_a_code_of_this_request_fails(
    query: str, reason: FailureReason, answers_request: bool
) -> None:
    result = REQUEST.read_callback(query)
    assert isinstance(result, FailedCallback)
    assert (result.reason, result.answers_request) == (reason, answers_request)
    assert CODE not in f"{result}"
    assert STATE not in f"{result}"


def test_unknown_parameters_are_ignored() -> None:
    assert isinstance(
        REQUEST.read_callback(f"code={CODE}&iss=x&state={STATE}&session_state="), AuthorizationCode
    )


def test_the_banks_error_description_is_cut_and_printable() -> None:
    description = "\x1b[2J\u202e\r\n" + "long " * 100
    query = urlencode({"error": "access_denied", "error_description": description, "state": STATE})
    result = REQUEST.read_callback(query)
    assert isinstance(result, FailedCallback)
    assert result.error == "access_denied"
    assert result.description is not None
    assert "long long" in result.description
    assert result.description.isprintable()
    assert len(result.description) < 250
    assert printable("abc", 2) == "ab…"


@pytest.mark.parametrize("secret", [STATE, CODE])
def test_a_description_that_contains_a_secret_is_left_out(secret: str) -> None:
    fields = {"error": "odd", "error_description": f"No {secret}.", "state": STATE, "code": CODE}
    result = REQUEST.read_callback(urlencode(fields))
    assert result == FailedCallback(FailureReason.BANK_ERROR, error="odd")


def test_the_issuer_of_a_callback_is_kept() -> None:
    issuer = "https://bank.example/issuer"
    for member in (f"code={CODE}", "error=server_error", "scope=x"):
        query = f"{member}&state={STATE}&{urlencode({'iss': issuer})}"
        assert REQUEST.read_callback(query).issuer == issuer


def restored(**changes: str) -> AuthorizationRequest:
    """Restore the request from its state, with changes."""
    given = {"client": CLIENT, "target": TARGET, "user": USER, "uri": URI, "key": KEY}
    given |= {"state": STATE} | changes
    grant = Grant(given["target"], given["user"])
    return AuthorizationRequest.restore(
        given["client"], grant, given["uri"], state=given["state"], key=given["key"]
    )


def test_a_request_is_restored_from_its_state() -> None:
    assert restored() == REQUEST
    result = restored().read_callback(urlencode({"code": CODE, "state": STATE}))
    assert result == AuthorizationCode(Secret(CODE))


@pytest.mark.parametrize(
    "changes",
    [
        {"client": "CIDX0000000003"},
        {"target": "IIDX00002"},
        {"user": "u-4712"},
        {"target": f"{TARGET}u", "user": USER[1:]},
        {"uri": "http://127.0.0.1:8766/callback"},
        {"key": "fake-other-key"},
        {"state": STATE.swapcase()},
        {"state": STATE[:-1]},
        {"state": "fake-state"},
        {"state": f"{STATE}\n"},
        {"state": ""},
        {"key": ""},
    ],
)
def test_a_state_of_other_values_restores_no_request(changes: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match=r"Nothing was sent\.") as caught:
        restored(**changes)
    frames = traceback.walk_tb(caught.value.__traceback__)
    product = [each for each, _ in frames if each.f_globals["__name__"].startswith("blink_oauth")]
    assert product
    # No frame of the library shows the state or the key.
    shown = "\n".join(f"{each.f_locals!r}" for each in product)
    assert STATE[:-1] not in shown
    assert KEY not in shown


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
        result = REQUEST.read_callback(query)
        assert isinstance(result, FailedCallback)
        assert not result.answers_request


def test_the_authorize_url_has_every_parameter() -> None:
    template = f"{TEMPLATE}?lang=de&client={{client_id}}"
    url = REQUEST.url(template, {"scope": "accounts read"})
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
    url = request_of(user=name).url(TEMPLATE, {})
    assert parse_qs(urlsplit(url).query)["username"] == [name]


def test_a_target_cannot_change_the_path() -> None:
    url = request_of(target="../x?y#z").url(TEMPLATE, {})
    assert urlsplit(url).path == "/..%2Fx%3Fy%23z/authorize"


@pytest.mark.parametrize("host", ["127.0.0.1:80", "[::1]:80", "localhost:80"])
def test_plain_http_is_accepted_on_loopback(host: str) -> None:
    assert REQUEST.url(f"http://{host}/a", {}).startswith(f"http://{host}/a?")


@pytest.mark.parametrize(
    ("template", "phrase"),
    [
        ("http://bank.example/a", "https://"),
        ("http://127.0.0.1.bank.example/a", "https://"),
        ("javascript:alert(1)", "name a host"),
        ("file:///etc/passwd", "name a host"),
        ("https:///a", "name a host"),
        ("https://user@bank.example/a", "neither a user"),
        # A password that is not escaped.
        ("https://user:1/fake@bank.example/a", "neither a user"),
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
        REQUEST.url(template, {})
    assert "Nothing was sent." in str(caught.value)


@pytest.mark.parametrize(
    "name", ["response_type", "client_id", "redirect_uri", "username", "state", "lang"]
)
def test_a_further_parameter_must_not_override_another(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} is there already"):
        REQUEST.url(f"{TEMPLATE}?lang=de", {name: "x"})

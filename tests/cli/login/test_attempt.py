"""The state, the authorize URL, and what a callback means."""

from __future__ import annotations

import random
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import pytest

from blink_oauth.context import Grant
from blink_oauth.errors import InvalidInputError
from blink_oauth_cli.login_authorization import (
    Attempt,
    Code,
    Refusal,
    Why,
    authorize_url,
    judge,
    new_attempt,
    printable,
)

CLIENT, TARGET, USER = "CIDX0000000002", "IIDX00001", "u-4711"
URI = "http://127.0.0.1:8765/callback"
KEY = b"fake-key"
TEMPLATE = "https://bank.example/{target_id}/authorize"
CODE = "fake-code-1"


def attempt_of(
    *,
    client: str = CLIENT,
    target: str = TARGET,
    user: str = USER,
    uri: str = URI,
    nonce: bytes = b"n",
    key: bytes = KEY,
) -> Attempt:
    return new_attempt(client, Grant(target, user), uri, random=lambda n: nonce * n, key=key)


ATTEMPT = attempt_of()
STATE = ATTEMPT.state.reveal()


def test_the_same_attempt_has_the_same_state() -> None:
    assert attempt_of().state == ATTEMPT.state
    assert len(STATE) == 64
    assert quote(STATE, safe="") == STATE


@pytest.mark.parametrize(
    "other",
    [
        attempt_of(client="CIDX0000000003"),
        attempt_of(target="IIDX00002"),
        attempt_of(user="u-4712"),
        attempt_of(uri="http://127.0.0.1:8766/callback"),
        attempt_of(nonce=b"m"),
        attempt_of(key=b"fake-other-key"),
        # The same characters, cut elsewhere.
        attempt_of(target=f"{TARGET}u", user=USER[1:]),
    ],
)
def test_a_state_is_bound_to_each_part_of_its_attempt(other: Attempt) -> None:
    assert other.state != ATTEMPT.state
    verdict = judge(ATTEMPT, urlencode({"code": CODE, "state": other.state.reveal()}))
    assert isinstance(verdict, Refusal)
    assert verdict.kind is Why.OTHER_LOGIN
    assert "another login" in verdict.what


def test_two_attempts_for_the_same_grant_have_different_states() -> None:
    first, second = (new_attempt(CLIENT, Grant(TARGET, USER), URI, key=KEY) for _ in range(2))
    assert first.state != second.state


def test_nothing_that_is_printed_shows_state_or_code() -> None:
    code = judge(ATTEMPT, urlencode({"code": CODE, "state": STATE}))
    assert isinstance(code, Code)
    assert code.secret.reveal() == CODE
    assert CODE not in repr(code)
    assert STATE not in repr(ATTEMPT)


@pytest.mark.parametrize(
    ("query", "kind", "ends", "said"),
    [
        ("", Why.NO_STATE, False, "without a state"),
        (f"code={CODE}", Why.NO_STATE, False, "without a state"),
        ("error=access_denied", Why.NO_STATE, False, "without a state"),
        (f"code={CODE}&state=", Why.WRONG_STATE, False, "wrong state"),
        (f"code={CODE}&state=guess", Why.WRONG_STATE, False, "wrong state"),
        (f"code={CODE}&state=%FF%F0%9F%98%80", Why.WRONG_STATE, False, "wrong state"),
        (f"code={CODE}&state={STATE}x", Why.WRONG_STATE, False, "wrong state"),
        (f"code={CODE}&state={STATE.swapcase()}", Why.OTHER_LOGIN, False, "another login"),
        (f"error=access_denied&state={'A' * 64}", Why.OTHER_LOGIN, False, "another login"),
        (f"code={CODE}&state={STATE}&state={STATE}", Why.REPEATED_STATE, False, "more than one"),
        (f"code={CODE}&state=x&state={STATE}", Why.REPEATED_STATE, False, "more than one"),
        ("&".join(f"p{n}=1" for n in range(99)), Why.UNREADABLE, False, "cannot be read"),
        (f"code={CODE}&code=x&state={STATE}", Why.REPEATED_PARAMETER, True, "more than once"),
        (f"code={CODE}&a=1&a=1&state={STATE}", Why.REPEATED_PARAMETER, True, "more than once"),
        (f"state={STATE}", Why.NO_CODE, True, "no usable code"),
        (f"code=&state={STATE}", Why.NO_CODE, True, "no usable code"),
        (f"code=a%0D%0Ab&state={STATE}", Why.NO_CODE, True, "no usable code"),
        (f"error=access_denied&state={STATE}", Why.ACCESS_DENIED, True, "consent was refused"),
        (f"error=server_error&state={STATE}", Why.BANK_ERROR, True, "it failed"),
        (f"error=invalid_scope&state={STATE}", Why.BANK_ERROR, True, "the scope is wrong"),
        (f"error=odd&state={STATE}", Why.BANK_ERROR, True, "it gives no code (odd)"),
        (f"error=&state={STATE}", Why.BANK_ERROR, True, "no error code"),
        (f"error=access_denied&code={CODE}&state={STATE}", Why.ACCESS_DENIED, True, "refused"),
    ],
)
def test_a_callback_without_a_code_of_this_login_is_refused(
    query: str, kind: Why, ends: bool, said: str
) -> None:
    verdict = judge(ATTEMPT, query)
    assert isinstance(verdict, Refusal)
    assert (verdict.kind, verdict.ends_login) == (kind, ends)
    assert said in verdict.what
    assert ("goes on waiting" in verdict.do) is not ends
    assert CODE not in f"{verdict}"
    assert STATE not in f"{verdict}"


def test_parameters_that_are_not_known_are_ignored() -> None:
    assert isinstance(judge(ATTEMPT, f"code={CODE}&iss=x&state={STATE}&session_state="), Code)


def test_the_words_of_the_bank_are_cut_and_harmless_to_a_terminal() -> None:
    words = "\x1b[2J\u202e\r\n" + "long " * 100
    query = urlencode({"error": "access_denied", "error_description": words, "state": STATE})
    verdict = judge(ATTEMPT, query)
    assert isinstance(verdict, Refusal)
    assert "long long" in verdict.what
    assert verdict.what.isprintable()
    assert len(verdict.what) < 400
    assert printable("abc", 2) == "ab…"


def test_no_callback_makes_the_judge_stumble_or_let_a_stranger_in() -> None:
    dice = random.Random(4711)
    pieces = ["code=", "state=", "error=", "&", "=", "%", "%00", ";", "?", "\xff", STATE[:63], CODE]
    for _ in range(3_000):
        query = "".join(dice.choices(pieces, k=dice.randrange(12)))
        verdict = judge(ATTEMPT, query)
        assert isinstance(verdict, Refusal)
        assert not verdict.ends_login


def test_the_authorize_url_holds_what_the_bank_must_know() -> None:
    template = f"{TEMPLATE}?lang=de&client={{client_id}}"
    url = authorize_url(template, ATTEMPT, {"scope": "accounts read"})
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


def test_a_strange_username_arrives_whole() -> None:
    name = "ü & {client_id}=%41#?"
    url = authorize_url(TEMPLATE, attempt_of(user=name), {})
    assert parse_qs(urlsplit(url).query)["username"] == [name]


def test_a_target_cannot_leave_its_place_in_the_path() -> None:
    url = authorize_url(TEMPLATE, attempt_of(target="../x?y#z"), {})
    assert urlsplit(url).path == "/..%2Fx%3Fy%23z/authorize"


@pytest.mark.parametrize("host", ["127.0.0.1:80", "[::1]:80", "localhost:80"])
def test_plain_http_is_good_enough_on_this_machine(host: str) -> None:
    assert authorize_url(f"http://{host}/a", ATTEMPT, {}).startswith(f"http://{host}/a?")


@pytest.mark.parametrize(
    ("template", "said"),
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
def test_an_unusable_authorize_url_is_refused(template: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        authorize_url(template, ATTEMPT, {})
    assert "Nothing was sent." in str(caught.value)


@pytest.mark.parametrize(
    "name", ["response_type", "client_id", "redirect_uri", "username", "state", "lang"]
)
def test_a_further_parameter_overrides_nothing(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} is there already"):
        authorize_url(f"{TEMPLATE}?lang=de", ATTEMPT, {name: "x"})

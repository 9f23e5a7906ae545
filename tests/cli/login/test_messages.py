"""The texts of the command for a callback without a usable code."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from blink_oauth.authorization import AuthorizationRequest, FailedCallback, FailureReason
from blink_oauth.context import Grant
from blink_oauth_cli.login_messages import message_of

CODE = "fake-code-1"
REQUEST = AuthorizationRequest.new(
    "CIDX0000000002",
    Grant("IIDX00001", "u-4711"),
    "http://127.0.0.1:8765/callback",
    random=lambda n: b"n" * n,
    key="fake-key",
)
STATE = REQUEST.state.reveal()


def failure_of(query: str) -> FailedCallback:
    result = REQUEST.read_callback(query)
    assert isinstance(result, FailedCallback)
    return result


@pytest.mark.parametrize(
    ("query", "phrase"),
    [
        ("", "without a state"),
        (f"code={CODE}", "without a state"),
        ("error=access_denied", "without a state"),
        (f"code={CODE}&state=", "wrong state"),
        (f"code={CODE}&state=guess", "wrong state"),
        (f"code={CODE}&state=%FF%F0%9F%98%80", "wrong state"),
        (f"code={CODE}&state={STATE}x", "wrong state"),
        (f"code={CODE}&state={STATE.swapcase()}", "another login"),
        (f"error=access_denied&state={'A' * 64}", "another login"),
        (f"code={CODE}&state={STATE}&state={STATE}", "more than one"),
        (f"code={CODE}&state=x&state={STATE}", "more than one"),
        ("&".join(f"p{n}=1" for n in range(99)), "cannot be read"),
        (f"code={CODE}&code=x&state={STATE}", "more than once"),
        (f"code={CODE}&a=1&a=1&state={STATE}", "more than once"),
        (f"state={STATE}", "no usable code"),
        (f"code=&state={STATE}", "no usable code"),
        (f"code=a%0D%0Ab&state={STATE}", "no usable code"),
        (f"error=access_denied&state={STATE}", "consent was refused"),
        (f"error=server_error&state={STATE}", "it failed"),
        (f"error=invalid_scope&state={STATE}", "the scope is wrong"),
        (f"error=odd&state={STATE}", "it gives no code (odd)"),
        (f"error=&state={STATE}", "no error code"),
        (f"error=access_denied&code={CODE}&state={STATE}", "refused"),
    ],
)
def test_the_message_says_what_happened_and_whether_the_login_goes_on(
    query: str, phrase: str
) -> None:
    failure = failure_of(query)
    message = message_of(failure)
    assert phrase in message.what
    assert ("goes on waiting" in message.do) is not failure.answers_request
    assert CODE not in f"{message}"
    assert STATE not in f"{message}"


@pytest.mark.parametrize("reason", FailureReason)
def test_every_reason_has_a_message(reason: FailureReason) -> None:
    message = message_of(FailedCallback(reason))
    assert message.what.endswith(".")
    assert message.do.endswith((".", "…"))


def test_the_banks_words_are_cut_and_printable() -> None:
    description = "\x1b[2J\u202e\r\n" + "long " * 100
    fields = {"error": "access_denied", "error_description": description, "state": STATE}
    what = message_of(failure_of(urlencode(fields))).what
    assert "long long" in what
    assert what.isprintable()
    assert len(what) < 400

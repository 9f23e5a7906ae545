"""Thousands of responses that the HTTP parser refuses or that a compressor broke.

With `test_mutations` they are more than 6,000 responses.
"""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from attrs import evolve

from blink_oauth import BlinkError, Outcome, ResponseError, Token
from flavours import FLAVOURS, Flavour
from wrapper.harness import REFRESH_TOKEN_SENT, SETTINGS, connected, refresh
from wrapper.leaks import found, texts_of, texts_of_error
from wrapper.raw_responses import CANARY, PAIR, RawNetwork, RawResponse, drawn

COUNT = 1_700
TOKENS = (REFRESH_TOKEN_SENT, *PAIR)


def test_each_family_of_raw_responses_occurs_often() -> None:
    families = Counter(drawn(index).family for index in range(COUNT))
    assert min(families.values()) >= COUNT / 20, families
    whole = sum(drawn(index).is_whole for index in range(COUNT))
    assert whole >= COUNT / 3


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_raw_response_is_a_token_or_one_of_our_errors(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "blink_oauth")
    network = RawNetwork()
    network.install(monkeypatch)
    settings = evolve(SETTINGS, base_url="http://127.0.0.1:9", allow_plain_http=True)
    with connected(flavour, None, settings) as blink:
        for index in range(COUNT):
            response = drawn(index)
            network.parts = response.parts()
            try:
                result: Token | BlinkError = refresh(blink)
            except BlinkError as error:
                result = error
            check(result, response, f"{index}: {response}")
    assert (
        found((CANARY, *TOKENS), [("log", record.getMessage()) for record in caplog.records]) == []
    )


def check(result: Token | BlinkError, response: RawResponse, what: str) -> None:
    """Check that no pair is lost, no secret is shown, and nothing uncertain is called certain."""
    token = result if isinstance(result, Token) else result.token
    # Damage may put the canary where a text belongs, such as the scope.
    secrets = TOKENS if response.family == "damaged" else (CANARY, *TOKENS)
    if response.is_whole:
        assert token is not None, what
        assert token.refresh_token is not None, what
        assert (token.access_token.reveal(), token.refresh_token.reveal()) == PAIR, what
    if isinstance(result, Token):
        assert found(secrets, texts_of(result)) == [], what
        return
    assert result.outcome is not Outcome.NOT_EXECUTED or response.family != "no status", what
    assert not isinstance(result, ResponseError) or result.status, what
    assert found(secrets, texts_of_error(result)) == [], what

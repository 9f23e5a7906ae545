"""The rules of the random kills find each kind of violation, and nothing that a kill explains."""

from __future__ import annotations

import pytest
from attrs import evolve

from blink_oauth_keeper import EventName
from crash.evidence import Evidence, TokenRequest

LEASE = 5.0
STORED = frozenset({EventName.REFRESHED})
REFUSED = frozenset({EventName.CONSENT_NEEDED})
FIRST = TokenRequest(
    process="kills/1",
    correlation_id="first",
    secret="fingerprint:1",
    is_refresh=True,
    accepted=True,
    at=100.0,
)
NEXT = evolve(FIRST, process="kills/2", correlation_id="next", secret="fingerprint:2", at=107.0)
AGAIN = evolve(NEXT, secret=FIRST.secret, accepted=False)
CODE = evolve(FIRST, correlation_id="code", secret="fingerprint:3", is_refresh=False)


def evidence(*requests: TokenRequest, **known: frozenset[EventName]) -> Evidence:
    """Return the evidence of requests whose events are in the history and were reported."""
    return Evidence(requests=requests, histories=known, reported=known, lease=LEASE)


REPLAYED = evolve(evidence(FIRST, AGAIN, next=REFUSED), killed={"kills/1": 100.1})

ALLOWED = {
    "each token is presented once": evidence(FIRST, NEXT, first=STORED, next=STORED),
    "the process was killed before it stored the pair": REPLAYED,
    "the process was killed before the bank received the request": evolve(
        REPLAYED, killed={"kills/1": 99.9}
    ),
    "a token was presented after its revocation": evolve(
        evidence(evolve(NEXT, accepted=False), next=REFUSED), revoked=frozenset({NEXT.secret})
    ),
    "a received pair was superseded": evolve(
        evidence(FIRST), reported={"first": frozenset({EventName.SUPERSEDED})}
    ),
    "the process was killed before it reported what it had stored": evolve(
        evidence(FIRST, first=STORED), reported={}, killed={"kills/1": 100.1}
    ),
}

FORBIDDEN = {
    "lost although the process was not killed:": evidence(FIRST),
    "lost although the process was not killed at that time": evolve(
        evidence(FIRST), killed={"kills/1": 106.0}
    ),
    "reported as stored, but not stored": evolve(
        evidence(FIRST, first=STORED), histories={}, killed={"kills/1": 100.1}
    ),
    "unknown although the process was not killed": evidence(
        FIRST, first=frozenset({EventName.UNCERTAIN})
    ),
    "presented again after the outcome was known": evidence(
        FIRST, AGAIN, first=STORED, next=REFUSED
    ),
    "presented by two processes at the same time": evolve(
        REPLAYED, requests=(FIRST, evolve(AGAIN, at=100.05))
    ),
    "refused although nothing had spent or revoked it": evidence(
        evolve(NEXT, accepted=False), next=REFUSED
    ),
    "refused although nothing had spent or revoked it: TokenRequest": evidence(
        evolve(CODE, accepted=False), code=frozenset({EventName.AUTHORIZATION_FAILED})
    ),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_a_kill_or_a_revocation_explains_is_no_violation(case: str) -> None:
    assert ALLOWED[case].violations == []


@pytest.mark.parametrize("violation", FORBIDDEN)
def test_each_violation_is_found(violation: str) -> None:
    assert [text for text in FORBIDDEN[violation].violations if text.startswith(violation)]


def test_reuses_are_presentations_after_an_accepted_one() -> None:
    third = evolve(AGAIN, correlation_id="third", at=114.0)
    assert evidence(FIRST, NEXT).reuses == 0
    assert evidence(FIRST, AGAIN).reuses == 1
    # Each presentation of a spent token counts, as at the bank.
    assert evidence(FIRST, AGAIN, third).reuses == 2


def test_a_kill_explains_a_reuse_if_it_interrupted_the_presentation_before() -> None:
    assert REPLAYED.explained_reuses == 1
    assert evidence(FIRST, AGAIN, first=STORED).explained_reuses == 0

"""`doctor` finds the form of a revocation that is accepted, with tokens that do not exist."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from attrs import evolve

from blink_oauth import Settings
from blink_oauth.settings import REVOCATION_FIELDS, RevocationField
from blink_oauth_cli.check import Check, Level
from blink_oauth_testing.sandbox import Exchange, Fault
from blink_oauth_testing.sandbox.messages import Response, Source, oauth_error, problem
from cli.doctor.harness import ACCESS, REFRESH, TARGET, Harness
from cli.doctor.server import ServerBehaviour, optional_mtls_server

Fields = tuple[RevocationField, ...]
SUBSETS: list[Fields] = list(
    chain.from_iterable(combinations(REVOCATION_FIELDS, count) for count in range(4))
)


@pytest.fixture
def harness(harness_without_store: Harness) -> Harness:
    """Return a setup without a store, which these checks do not read."""
    return harness_without_store


def refuse(harness: Harness, *fields: RevocationField) -> None:
    """Make the bank refuse these fields of a revocation."""
    bank = harness.sandbox.banks[TARGET]
    bank.policy = evolve(bank.policy, refused_revocation_fields=fields)


def respond_once(harness: Harness, response: Response) -> None:
    """Make the next revocation fail with a response; planned ones come in order."""

    def change(usual: Response) -> Response:
        return response.with_header("X-Correlation-ID", usual.header("X-Correlation-ID") or "")

    harness.sandbox.fail(
        Fault("asked-for", executes=False, change=change), operation="revoke_token"
    )


def revocations(harness: Harness) -> list[Exchange]:
    return [each for each in harness.sandbox.exchanges if each.operation == "revoke_token"]


def sent(harness: Harness) -> list[set[str]]:
    """Return the fields of each revocation beside the token."""
    return [dict(each.form).keys() - {"token"} for each in revocations(harness)]


def not_ok(checks: dict[str, Check]) -> dict[str, Level]:
    return {check.name: check.level for check in checks.values() if check.level is not Level.OK}


def advised(check: Check) -> str:
    """Return the value of the variable in the remedy."""
    assert check.remedy is not None
    return check.remedy.partition("BLINK_REVOCATION_FIELDS=")[2].partition(". ")[0]


@pytest.mark.parametrize("refused", SUBSETS[1:])
def test_the_advised_fields_are_all_that_a_closed_form_accepts(
    harness: Harness, refused: Fields
) -> None:
    refuse(harness, *refused)
    checks = harness.checks_of_call()
    accepted = tuple(name for name in REVOCATION_FIELDS if name not in refused)
    assert not_ok(checks) == {"revocation": Level.FAIL}
    assert advised(checks["revocation"]) == (",".join(accepted) or "none")
    listed = ", ".join(f'"{name}"' for name in accepted)
    assert f"revocation_fields = [{listed}] into" in str(checks["revocation"].remedy)
    assert "400, invalid_request" in checks["revocation"].finding
    assert "Only a real token can prove" in checks["revocation"].finding
    # Each choice is tried once, the configured one first.
    assert sent(harness)[0] == set(REVOCATION_FIELDS)
    assert sorted(map(sorted, sent(harness))) == sorted(sorted(each) for each in SUBSETS)

    # With the advice nothing is wrong, and one call is made.
    environ = harness.sandbox.environment()
    environ["BLINK_REVOCATION_FIELDS"] = advised(checks["revocation"])
    fields = Settings.from_env(environ).revocation_fields
    checks = harness.checks_of_call(revocation_fields=fields)
    assert not_ok(checks) == {}
    assert sent(harness)[8:] == [set(accepted)]
    assert "Only a real token can prove" in checks["revocation"].finding


@pytest.mark.parametrize("configured", [("username",), ("client_id", "username")])
def test_a_field_that_is_left_out_is_tried_too(harness: Harness, configured: Fields) -> None:
    refuse(harness, "username")
    checks = harness.checks_of_call(revocation_fields=configured)
    assert sent(harness)[:2] == [set(configured), set(REVOCATION_FIELDS)]
    assert len(revocations(harness)) == 8
    assert advised(checks["revocation"]) == "token_type_hint,client_id"


def test_no_trial_sends_a_real_token_or_one_twice(harness: Harness) -> None:
    refuse(harness, *REVOCATION_FIELDS)
    harness.checks_of_call()
    tokens = [dict(each.form)["token"] for each in revocations(harness)]
    assert len(tokens) == len(set(tokens)) == 8
    assert not {harness.sandbox.fingerprint(real) for real in (ACCESS, REFRESH)} & set(tokens)


REFUSED_ONCE: dict[str, Response] = {
    "problem of the platform": problem(400, "INVALID_PAYLOAD", "Bad Request", "An odd field."),
    "unknown problem of the platform": problem(400, "TECHNICAL_ERROR", "Bad Request", "Odd."),
    "unprocessable": problem(422, "INVALID_PAYLOAD", "Unprocessable Content", "An odd field."),
    "OAuth error of the bank": oauth_error("invalid_request", "An odd field."),
    "problem of the bank": problem(400, "MALFORMED_PAYLOAD", "Bad Request", "Odd.", "PROVIDER"),
}


@pytest.mark.parametrize("name", REFUSED_ONCE)
def test_a_form_is_refused_by_either_source_in_either_form(harness: Harness, name: str) -> None:
    respond_once(harness, REFUSED_ONCE[name])
    checks = harness.checks_of_call()
    assert not_ok(checks) == {"revocation": Level.FAIL}
    assert advised(checks["revocation"]) == "token_type_hint,client_id"
    assert len(revocations(harness)) == 8


NOT_THE_FORM: dict[str, tuple[Response, dict[str, Level]]] = {
    "refused token": (oauth_error("unsupported_token_type", "No."), {}),
    "refused media type": (
        problem(415, "UNSUPPORTED_MEDIA_TYPE", "Unsupported", "No."),
        {"call": Level.WARN, "headers": Level.FAIL},
    ),
    "unknown target": (
        problem(403, "INSUFFICIENT_PRIVILEGES", "Forbidden", "No."),
        {"call": Level.FAIL},
    ),
    "unknown client": (problem(401, "INVALID_CLIENT", "No", "No."), {"call": Level.FAIL}),
    "no code": (oauth_error("", "No."), {}),
}


@pytest.mark.parametrize("name", NOT_THE_FORM)
def test_another_refusal_starts_no_trial(harness: Harness, name: str) -> None:
    response, expected = NOT_THE_FORM[name]
    respond_once(harness, response)
    checks = harness.checks_of_call()
    assert not_ok(checks) == expected
    assert len(revocations(harness)) == 1
    assert ("revocation" in checks) is (name == "refused token")


@pytest.mark.parametrize(
    ("second", "expected", "phrase"),
    [
        (
            problem(503, "TECHNICAL_ERROR", "Service Unavailable", "Later."),
            {"call": Level.WARN, "revocation": Level.WARN},
            "The platform or the bank fails",
        ),
        (
            problem(401, "INVALID_CLIENT", "Unauthorized", "Unknown."),
            {"call": Level.FAIL, "revocation": Level.WARN},
            "The client was not authenticated",
        ),
    ],
)
def test_the_trial_ends_with_a_response_that_says_nothing_about_the_form(
    harness: Harness, second: Response, expected: dict[str, Level], phrase: str
) -> None:
    for response in (REFUSED_ONCE["problem of the platform"], second):
        respond_once(harness, response)
    checks = harness.checks_of_call()
    assert not_ok(checks) == expected
    assert phrase in checks["call"].finding
    assert "ended early" in checks["revocation"].finding
    assert len(revocations(harness)) == 2


def test_what_was_accepted_before_the_end_of_the_trial_is_advised(harness: Harness) -> None:
    respond_once(harness, REFUSED_ONCE["problem of the platform"])
    harness.sandbox.fail(Fault("none", executes=True), operation="revoke_token")
    respond_once(harness, problem(503, "TECHNICAL_ERROR", "Service Unavailable", "Later."))
    checks = harness.checks_of_call()
    assert not_ok(checks) == {"revocation": Level.FAIL}
    assert advised(checks["revocation"]) == "token_type_hint,client_id"
    assert len(revocations(harness)) == 3


def test_a_client_that_is_not_named_may_be_unknown_for_that_reason(harness: Harness) -> None:
    respond_once(harness, problem(401, "INVALID_CLIENT", "Unauthorized", "No client id."))
    checks = harness.checks_of_call(revocation_fields=[])
    assert not_ok(checks) == {"revocation": Level.FAIL}
    assert advised(checks["revocation"]) == "token_type_hint,client_id,username"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("PROVIDER", {"revocation": Level.FAIL}),
        (
            "PLATFORM",
            {"call": Level.WARN, "headers": Level.FAIL, "revocation": Level.FAIL},
        ),
    ],
)
def test_a_form_that_is_refused_with_any_fields_is_reported(
    harness: Harness, source: Source, expected: dict[str, Level]
) -> None:
    behaviour = ServerBehaviour(
        lambda certified: 405 if certified else 401,
        source=source,
        status=400,
        body=b'{"error": "invalid_request"}',
    )
    with optional_mtls_server(harness.sandbox.authority, harness.folder, behaviour) as url:
        checks = harness.checks_of_call(base_url=url)
    assert not_ok(checks) == expected
    assert "So is every other choice" in checks["revocation"].finding

"""Valid and invalid requests, generated from the contract, find no violation in the sandbox.

Every check of schemathesis is on, except one for the cases that accept only HTML. Two other false
alarms are prevented at their source and not filtered: see `NoDefaultUserAgent` and `is_valid`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from attrs import frozen
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import settings
from requests.adapters import HTTPAdapter
from schemathesis.core.failures import FailureGroup
from schemathesis.generation.meta import CoverageScenario
from schemathesis.specs.openapi.checks import positive_data_acceptance
from urllib3.util import SKIP_HEADER

from blink_oauth_testing.sandbox import Bank, Sandbox
from blink_oauth_testing.sandbox.banks import IssuedTokens

Case = schemathesis.Case[Any]

SPEC_FOLDER = Path(__file__).parents[2] / "spec"
SPEC = SPEC_FOLDER / "openapi.yaml"
SCHEMA = schemathesis.openapi.from_path(SPEC, config=schemathesis.Config(seed=7009))
HEADERS = json.loads((SPEC_FOLDER / "examples/headers.json").read_text("utf-8"))
TARGET_ID = "X-CorAPI-Target-ID"


class NoDefaultUserAgent(HTTPAdapter):
    """Sends no User-Agent if a case has none.

    The HTTP client would add its own, and the sandbox would rightly accept a request that
    schemathesis takes for one without a User-Agent.
    """

    def add_headers(self, request: requests.PreparedRequest, **_options: object) -> None:
        request.headers.setdefault("User-Agent", SKIP_HEADER)


def as_unregistered_client(case: Case, sandbox: Sandbox) -> None:
    """Replace our client id, which the examples of the contract have, by an unregistered one.

    A revocation may have none.
    """
    if isinstance(case.body, dict) and case.body.get("client_id") == sandbox.settings().client_id:
        case.body["client_id"] = "CIDX9999999999"


def as_our_client(case: Case, sandbox: Sandbox) -> None:
    """Replace a valid client id by ours; the bank stays unknown."""
    if isinstance(case.body, dict) and is_visible(case.body.get("client_id")):
        case.body["client_id"] = sandbox.settings().client_id


def with_credentials(case: Case, sandbox: Sandbox) -> None:
    """Replace a valid client id, bank, code and refresh token by ones that the sandbox accepts."""
    as_our_client(case, sandbox)
    target_id, bank = next(iter(sandbox.banks.items()))
    if is_visible(case.headers.get(TARGET_ID)):
        case.headers[TARGET_ID] = target_id
    if isinstance(case.body, dict):
        fill_in(case.body, bank)


def wanting_html(case: Case, sandbox: Sandbox) -> None:
    """Accept only HTML, in a case that has credentials."""
    with_credentials(case, sandbox)
    case.headers["Accept"] = "text/html"


def is_visible(value: object) -> bool:
    """Return whether a value is a string of visible ASCII, as the contract requires of ids."""
    return isinstance(value, str) and value != "" and all("!" <= c <= "~" for c in value)


def is_valid(case: Case) -> bool:
    """Return whether a case conforms to the contract.

    If the contract has an optional header, schemathesis adds an unknown one, and takes the request
    for invalid. Only a form is closed: any request may have other headers.
    """
    assert case.meta is not None
    scenario = getattr(case.meta.phase.data, "scenario", None)
    only_adds_a_header = (
        scenario is CoverageScenario.OBJECT_UNEXPECTED_PROPERTIES
        and "x-schemathesis-unknown-property" in case.headers
    )
    return case.meta.generation.mode.is_positive or only_adds_a_header


def fill_in(form: dict[str, Any], bank: Bank) -> None:
    """Replace the code or refresh token of a form by one that the bank has issued."""
    client_id, username = form.get("client_id"), form.get("username")
    redirect_uri = form.get("redirect_uri", "https://books.example/callback")
    if not (isinstance(client_id, str) and isinstance(username, str)):
        return
    if not isinstance(redirect_uri, str):
        return
    code = bank.issue_code(client_id, redirect_uri, username)
    if is_text(form.get("code")):
        form["code"] = code
    elif is_text(form.get("refresh_token")):
        form["refresh_token"] = issued_refresh_token(bank, client_id, code, redirect_uri, username)


def is_text(value: object) -> bool:
    """Return whether a value is a string that is not empty."""
    return isinstance(value, str) and value != ""


def issued_refresh_token(bank: Bank, *code: str) -> str:
    """Return the refresh token of a code that is exchanged at the bank directly."""
    issued = bank.exchange_code(*code)
    assert isinstance(issued, IssuedTokens)
    assert issued.refresh_token is not None
    return issued.refresh_token


@frozen
class Variant:
    """A change of all cases of a run, and the expected status codes.

    Attributes:
        change: Changes a case.
        valid: Status for a case that conforms to the contract.
        invalid: Statuses for a case that violates it.
    """

    change: Callable[[Case, Sandbox], None]
    valid: int
    invalid: frozenset[int] = frozenset({400, 405, 415})

    def status_of(self, case: Case) -> int:
        """Return the status for a case that conforms to the contract."""
        assert isinstance(case.body, dict)
        names_no_client = self.valid == 401 and "client_id" not in case.body
        # Then the client is that of the certificate, and the bank is unknown.
        return 403 if names_no_client else self.valid


VARIANTS = [
    Variant(as_unregistered_client, valid=401),
    Variant(as_our_client, valid=403),
    Variant(with_credentials, valid=200),
    Variant(wanting_html, valid=406, invalid=frozenset({405, 406})),
]


@pytest.fixture(scope="module")
def platform() -> Iterator[Sandbox]:
    """Yield one sandbox for the module: the generated requests do not depend on its state."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def mutual_tls(
    platform: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Yield the options of a session with the registered client's certificate and a plain key.

    The library cannot read an encrypted key.
    """
    certificate = platform.client_certificate()
    assert certificate.key is not None
    assert certificate.passphrase is not None
    passphrase = certificate.passphrase.reveal().encode()
    key = load_pem_private_key(certificate.key.read_bytes(), passphrase)
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = tmp_path_factory.mktemp("client") / "client.pem"
    file.write_bytes(certificate.chain.read_bytes() + plain)
    with requests.Session() as session:
        session.trust_env = False
        session.headers.clear()
        session.mount("https://", NoDefaultUserAgent())
        yield {"session": session, "cert": str(file), "verify": str(certificate.ca)}


@pytest.fixture(scope="module")
def statuses() -> Counter[int]:
    """Return a counter of the statuses in all cases of the module."""
    return Counter()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.change.__name__)
@SCHEMA.parametrize()
@settings(max_examples=100)
def test_the_sandbox_conforms_to_the_contract_for_any_request(
    case: Case,
    variant: Variant,
    platform: Sandbox,
    mutual_tls: dict[str, Any],
    statuses: Counter[int],
) -> None:
    variant.change(case, platform)
    # This check expects that a case with a valid body is accepted, in spite of its Accept header.
    excluded: list[Any] = [positive_data_acceptance] if variant.valid == 406 else []
    response = case.call_and_validate(platform.base_url, excluded_checks=excluded, **mutual_tls)
    statuses[response.status_code] += 1
    if is_valid(case):
        assert response.status_code == variant.status_of(case)
    else:
        assert response.status_code in variant.invalid


def test_every_status_of_the_platform_was_returned(statuses: Counter[int]) -> None:
    assert statuses.keys() == {200, 400, 401, 403, 405, 406, 415}


@pytest.mark.parametrize(
    "fault",
    [
        "missing-correlation-id",
        "missing-source",
        "cacheable",
        "missing-access-token",
        "string-expires-in",
        "json-list",
        "wrong-content-type",
        "status-201",
        "service-unavailable",
    ],
)
def test_a_response_that_violates_the_contract_is_found(
    platform: Sandbox, mutual_tls: dict[str, Any], fault: str
) -> None:
    case = SCHEMA["/oauth/token"]["POST"].Case(
        headers=dict(HEADERS["request_unattended"]),
        body={
            "grant_type": "refresh_token",
            "client_id": "CIDX0000000002",
            "username": "u-4711",
            "refresh_token": "fake-refresh-token-1",
        },
        media_type="application/x-www-form-urlencoded",
    )
    with_credentials(case, platform)
    platform.fail(fault)
    with pytest.raises(FailureGroup):
        case.call_and_validate(platform.base_url, **mutual_tls)

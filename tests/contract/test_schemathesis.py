"""Requests made from the contract, right and wrong ones, find nothing wrong with the sandbox.

Every check of schemathesis is on. There is one way in which it would raise a false alarm, and it is
closed at its source instead of being filtered: see `NothingAdded`.
"""

from __future__ import annotations

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
from schemathesis.specs.openapi.checks import positive_data_acceptance
from urllib3.util import SKIP_HEADER

from blink_oauth_testing.sandbox import Bank, Sandbox
from blink_oauth_testing.sandbox.banks import Issued

Case = schemathesis.Case[Any]

SPEC = Path(__file__).parents[2] / "spec" / "openapi.yaml"
SCHEMA = schemathesis.openapi.from_path(SPEC, config=schemathesis.Config(seed=7009))
TARGET_ID = "X-CorAPI-Target-ID"


class NothingAdded(HTTPAdapter):
    """Sends no User-Agent where a case has none.

    The HTTP client below would add one of its own, and the sandbox would be blamed for accepting a
    request without a User-Agent that had one.
    """

    def add_headers(self, request: requests.PreparedRequest, **_options: object) -> None:
        request.headers.setdefault("User-Agent", SKIP_HEADER)


def as_generated(case: Case, sandbox: Sandbox) -> None:
    """Leave a case as it is: its client is nobody."""


def as_our_client(case: Case, sandbox: Sandbox) -> None:
    """Put our client id where a valid one is; the bank is still nobody's."""
    if isinstance(case.body, dict) and is_visible(case.body.get("client_id")):
        case.body["client_id"] = sandbox.settings().client_id


def with_credentials(case: Case, sandbox: Sandbox) -> None:
    """Put our client id, our bank and what it has issued where valid ones are."""
    as_our_client(case, sandbox)
    target_id, bank = next(iter(sandbox.banks.items()))
    if is_visible(case.headers.get(TARGET_ID)):
        case.headers[TARGET_ID] = target_id
    if isinstance(case.body, dict):
        fill_in(case.body, bank)


def wanting_html(case: Case, sandbox: Sandbox) -> None:
    """Accept nothing that the platform offers, in a case that is good otherwise."""
    with_credentials(case, sandbox)
    case.headers["Accept"] = "text/html"


def is_visible(value: object) -> bool:
    """Say whether a value is a text of visible ASCII, as the contract wants ids."""
    return isinstance(value, str) and value != "" and all("!" <= c <= "~" for c in value)


def fill_in(form: dict[str, Any], bank: Bank) -> None:
    """Replace the code or refresh token of a form by one that the bank knows."""
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
    """Say whether a value is a text that is not empty."""
    return isinstance(value, str) and value != ""


def issued_refresh_token(bank: Bank, *code: str) -> str:
    """Exchange a code at the bank itself."""
    issued = bank.exchange_code(*code)
    assert isinstance(issued, Issued)
    assert issued.refresh_token is not None
    return issued.refresh_token


@frozen
class Guise:
    """What is put into the cases of one run, and what the sandbox then says.

    Attributes:
        put_on: Changes a case.
        right: Status for a case that keeps the contract.
        wrong: Statuses for a case that breaks it.
    """

    put_on: Callable[[Case, Sandbox], None]
    right: int
    wrong: frozenset[int] = frozenset({400, 405, 415})


GUISES = [
    Guise(as_generated, right=401),
    Guise(as_our_client, right=403),
    Guise(with_credentials, right=200),
    Guise(wanting_html, right=406, wrong=frozenset({405, 406})),
]


@pytest.fixture(scope="module")
def platform() -> Iterator[Sandbox]:
    """Run a sandbox for the whole module: what is generated does not depend on its state."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def mutual_tls(
    platform: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Connect as the registered client; the library can read no encrypted key."""
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
        session.mount("https://", NothingAdded())
        yield {"session": session, "cert": str(file), "verify": str(certificate.ca)}


@pytest.fixture(scope="module")
def answers() -> Counter[int]:
    """Count the statuses over all cases of the module."""
    return Counter()


@pytest.mark.parametrize("guise", GUISES, ids=lambda guise: guise.put_on.__name__)
@SCHEMA.parametrize()
@settings(max_examples=100)
def test_whatever_is_sent_the_sandbox_keeps_the_contract(
    case: Case,
    guise: Guise,
    platform: Sandbox,
    mutual_tls: dict[str, Any],
    answers: Counter[int],
) -> None:
    guise.put_on(case, platform)
    # A case that is good but for its Accept is to be refused, and the check does not know why.
    excluded: list[Any] = [positive_data_acceptance] if guise.right == 406 else []
    response = case.call_and_validate(platform.base_url, excluded_checks=excluded, **mutual_tls)
    answers[response.status_code] += 1
    assert case.meta is not None
    if case.meta.generation.mode.is_positive:
        assert response.status_code == guise.right
    else:
        assert response.status_code in guise.wrong


def test_every_answer_that_the_platform_has_was_seen(answers: Counter[int]) -> None:
    assert answers.keys() == {200, 400, 401, 403, 405, 406, 415}


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
def test_an_answer_against_the_contract_would_be_found(
    platform: Sandbox, mutual_tls: dict[str, Any], fault: str
) -> None:
    case = SCHEMA["/oauth/token"]["POST"].Case(
        headers={
            "X-Correlation-ID": "6f1f9a52-1f6b-4b0e-9a53-6c9f4c0e2d11",
            "User-Agent": "acme-books/3.2",
            TARGET_ID: "IIDX99999",
            "X-PSU-IP-Address": "AUTO",
            "X-PSU-User-Agent": "AUTO",
        },
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

"""The request and response headers, compared with the header lists of the contract."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import blink_oauth.headers
from blink_oauth import Grant, Psu, ResponseMeta, Source, StatusError
from blink_oauth.context import request_headers
from blink_oauth.headers import MAX_CORRELATION_ID, REQUEST_HEADERS, RESPONSE_HEADERS, read_meta
from wrapper.harness import (
    FIRST_ID,
    GRANT,
    NOW,
    PSU,
    TOKEN_HEADERS,
    Connect,
    Platform,
    refresh,
    reply,
)

SPEC = Path(__file__).parents[2] / "spec"
CONTRACT: dict[str, Any] = yaml.safe_load((SPEC / "openapi.yaml").read_text("utf-8"))
EXAMPLES: dict[str, dict[str, str]] = json.loads((SPEC / "examples/headers.json").read_text())
RARE = {"Content-Language": "de", "Retry-After": "5"}
OPERATIONS = [item["post"] for item in CONTRACT["paths"].values()]


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """Return the node that a reference names, or the node itself."""
    if "$ref" not in node:
        return node
    target = CONTRACT
    for key in node["$ref"].split("/")[1:]:
        target = target[key]
    return target


def meta(status: int = 200, **headers: str) -> ResponseMeta:
    """Read response headers; their names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_meta(status, httpx.Headers(named), correlation_id=FIRST_ID, now=NOW)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation["operationId"])
def test_the_client_sends_the_required_request_headers(operation: dict[str, Any]) -> None:
    parameters = [resolved(parameter) for parameter in operation["parameters"]]
    required = {parameter["name"] for parameter in parameters if parameter.get("required")}
    assert required <= REQUEST_HEADERS <= {parameter["name"] for parameter in parameters}
    sent = request_headers(GRANT, PSU, user_agent="acme-books/3.2", correlation_id=FIRST_ID)
    assert sent.keys() == REQUEST_HEADERS


def test_the_client_reads_the_required_response_headers() -> None:
    headers = [
        (name, resolved(header).get("required", False))
        for operation in OPERATIONS
        for response in operation["responses"].values()
        for name, header in resolved(response)["headers"].items()
    ]
    required = {name for name, is_required in headers if is_required}
    # It may read optional ones too, but none that the contract lacks.
    assert required <= RESPONSE_HEADERS <= {name for name, _ in headers}


@pytest.mark.parametrize(
    ("pins", "headers"),
    [
        ("_names_of_request_headers", REQUEST_HEADERS),
        ("_names_of_response_headers", RESPONSE_HEADERS),
    ],
)
def test_every_header_that_the_client_reads_or_sends_is_pinned_to_the_contract(
    pins: str, headers: frozenset[str]
) -> None:
    # The pins exist for type checkers only, so they are found in the source.
    source = Path(blink_oauth.__file__).with_name("_api.py").read_text("utf-8")
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    (function,) = (each for each in functions if each.name == pins)
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    assert {getattr(blink_oauth.headers, name, "") for name in names} >= headers


def test_the_limit_of_the_correlation_id_is_that_of_the_contract() -> None:
    assert CONTRACT["components"]["schemas"]["CorrelationId"]["maxLength"] == MAX_CORRELATION_ID


@pytest.mark.parametrize(
    ("psu", "example"),
    [
        (Psu("203.0.113.7", "Mozilla/5.0 (X11; Linux x86_64)"), "request_interactive"),
        (Psu.AUTO, "request_unattended"),
    ],
)
def test_the_request_headers_are_those_of_the_contracts_example(psu: Psu, example: str) -> None:
    expected = EXAMPLES[example]
    sent = request_headers(
        Grant("IIDX99999", "u-4711"),
        psu,
        user_agent="acme-books/3.2",
        correlation_id=expected["X-Correlation-ID"],
    )
    # The examples have optional headers too, which the client need not send.
    assert sent == {name: value for name, value in expected.items() if name in REQUEST_HEADERS}


RESPONSE_EXAMPLES: dict[str, dict[str, Any]] = {
    "response_success": {"source": Source.PROVIDER, "caching_forbidden": True},
    "response_error_platform": {"source": Source.PLATFORM, "language": "en"},
    "response_error_provider": {"source": Source.PROVIDER, "language": "en"},
}
"""The values that are read from the examples, except what all have, or lack, in common."""


@pytest.mark.parametrize("example", RESPONSE_EXAMPLES)
def test_the_response_headers_of_the_contracts_example_are_read(example: str) -> None:
    headers = EXAMPLES[example]
    sent_id = headers["X-Correlation-ID"]
    common: dict[str, Any] = {
        "status": 502,
        "correlation_id": sent_id,
        "echoed": True,
        "language": None,
        "caching_forbidden": False,
        "retry_after": None,
    }
    read = read_meta(502, httpx.Headers(headers), correlation_id=sent_id, now=NOW)
    assert read == ResponseMeta(**common | RESPONSE_EXAMPLES[example])


@pytest.mark.parametrize("example", RESPONSE_EXAMPLES)
def test_each_header_that_the_client_reads_has_an_effect_on_the_meta(example: str) -> None:
    sent_id = EXAMPLES[example]["X-Correlation-ID"]

    def read(headers: dict[str, str]) -> ResponseMeta:
        return read_meta(502, httpx.Headers(headers), correlation_id=sent_id, now=NOW)

    for name in EXAMPLES[example].keys() & RESPONSE_HEADERS:
        others = {each: value for each, value in EXAMPLES[example].items() if each != name}
        assert read(others) != read(EXAMPLES[example]), name


def test_absent_response_headers_give_none_unknown_or_false() -> None:
    assert meta(599) == ResponseMeta(
        status=599,
        correlation_id=FIRST_ID,
        echoed=None,
        source=Source.UNKNOWN,
        language=None,
        caching_forbidden=False,
        retry_after=None,
    )


@pytest.mark.parametrize(
    ("echo", "echoed"), [("corr-1", True), ("corr-2", False), ("CORR-1", False), ("", None)]
)
def test_the_returned_correlation_id_is_compared_exactly(echo: str, echoed: bool | None) -> None:
    read = meta(X_Correlation_ID=echo)
    assert read.echoed is echoed
    assert read.correlation_id == FIRST_ID


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("PLATFORM", Source.PLATFORM),
        ("platform", Source.PLATFORM),
        (" Provider ", Source.PROVIDER),
        ("UNKNOWN", Source.UNKNOWN),
        ("BANK", Source.UNKNOWN),
        ("PLATFORM, PROVIDER", Source.UNKNOWN),
        ("", Source.UNKNOWN),
    ],
)
def test_a_source_that_is_not_in_the_contract_is_unknown(value: str, source: Source) -> None:
    assert meta(X_CorAPI_Source=value).source is source


@pytest.mark.parametrize(
    ("value", "language"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("de-CH", "de"),
        (" gsw ", "gsw"),
        ("", None),
        ("e", None),
        ("english text", None),
        ("e1", None),
        ("ün", None),
        ("en, de", None),
    ],
)
def test_a_language_is_its_primary_subtag_or_none(value: str, language: str | None) -> None:
    raw = httpx.Headers({"Content-Language": value}, encoding="utf-8")
    assert read_meta(400, raw, correlation_id=FIRST_ID, now=NOW).language == language


@pytest.mark.parametrize(
    ("cache_control", "pragma", "held"),
    [
        ("no-store", "no-cache", True),
        ("No-Store", "No-Cache", True),
        ("private, no-store, max-age=0", "no-cache", True),
        ("no-store", "", False),
        ("", "no-cache", False),
        ("no-cache", "no-cache", False),
        ("no-stored", "no-cache", False),
        ("max-age=60", "no-cache", False),
    ],
)
def test_caching_is_forbidden_only_by_no_store_and_no_cache_together(
    cache_control: str, pragma: str, held: bool
) -> None:
    assert meta(Cache_Control=cache_control, Pragma=pragma).caching_forbidden is held


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        # The three forms of a date (RFC 9110 section 5.6.7), and how they are spelled in the field
        ("Wednesday, 04-Mar-26 05:06:37 GMT", 30.0),
        ("Wed Mar  4 05:06:37 2026", 30.0),
        ("Wed Mar 04 05:06:37 2026", 30.0),
        ("Wed, 04 Mar 2026 05:06:37 -0000", 30.0),
        ("Wed, 04 Mar 2026 06:06:37 +0100", 30.0),
        ("Wed, 4 Mar 2026 05:06:37 GMT", 30.0),
        ("04 Mar 2026 05:06:37 GMT", 30.0),
        ("  wed,  04 mar 2026  05:06:37 gmt ", 30.0),
        ("Wed Mar  4 05:05:37 2026", 0.0),
        # A year of two digits is never more than 50 years away.
        ("Wednesday, 04-Mar-76 05:06:07 GMT", 1_577_923_200.0),
        ("Wednesday, 04-Mar-76 05:06:08 GMT", 0.0),
        ("Tuesday, 04-Mar-75 05:06:07 GMT", 1_546_300_800.0),
        ("Friday, 04-Mar-77 05:06:37 GMT", 0.0),
        ("Thursday, 04-Mar-99 05:06:37 GMT", 0.0),
        ("Thursday, 29-Feb-24 05:06:37 GMT", 0.0),
        ("Tuesday, 29-Feb-28 05:06:07 GMT", 62_812_800.0),
        # Fractions, repetitions and delays without end
        ("1.5", 1.5),
        ("7.", 7.0),
        ("0.0", 0.0),
        ("120, 120", 120.0),
        ("5,120 , 7", 120.0),
        ("120, soon", 120.0),
        ("soon, -5", None),
        ("Wed, 04 Mar 2026 05:06:37 GMT, Wed, 04 Mar 2026 05:06:37 GMT", 30.0),
        ("Wed Mar  4 05:06:37 2026, 7", 30.0),
        ("7, Wednesday, 04-Mar-26 05:06:37 GMT", 30.0),
        ("9" * 9, 999_999_999.0),
        ("9" * 10, 2.0**31),
        ("9" * 400, 2.0**31),
        ("-5", None),
        ("-1.5", None),
        ("1.5.2", None),
        (".5", None),
        ("1e3", None),
        ("inf", None),
        ("120 s", None),
        (",", None),
        ("soon", None),
        ("", None),
        ("²", None),
        ("Wed, 99 Mar 2026 05:06:37 GMT", None),
        ("Wed, 04 Mar 99999999999 05:06:37 GMT", None),
    ],
)
def test_retry_after_is_read_from_seconds_or_a_date(value: str, seconds: float | None) -> None:
    raw = httpx.Headers({"Retry-After": value}, encoding="utf-8")
    assert read_meta(503, raw, correlation_id=FIRST_ID, now=NOW).retry_after == seconds


@pytest.mark.parametrize(
    "value",
    ["Wed, 04 Mar 2026 05:06:07 GMT", "Wednesday, 04-Mar-26 05:06:07 GMT", NOW.ctime()],
)
def test_a_probe_reads_the_date_in_each_of_the_three_forms(connect: Connect, value: str) -> None:
    assert connect(Platform(reply(405, b"", {"Date": value}))).probe().date == NOW


def test_the_text_of_an_error_rounds_the_wait_up(connect: Connect) -> None:
    with pytest.raises(StatusError, match="after 8 s"):
        refresh(connect(Platform(reply(429, b"", {"Retry-After": "7.2"}))))


def test_the_seconds_of_a_retry_after_date_are_counted_from_now() -> None:
    later = datetime(2026, 3, 4, 6, 0, tzinfo=UTC)
    raw = httpx.Headers({"Retry-After": format_datetime(later, usegmt=True)})
    waits = [
        read_meta(503, raw, correlation_id=FIRST_ID, now=later - timedelta(minutes=m)).retry_after
        for m in (2, 1)
    ]
    assert waits == [120.0, 60.0]


@pytest.mark.parametrize("spell", [str.upper, str.lower, str.title])
def test_header_names_are_not_case_sensitive(connect: Connect, spell: Callable[[str], str]) -> None:
    headers = [
        (spell(name).encode(), value.encode()) for name, value in (TOKEN_HEADERS | RARE).items()
    ]
    token = refresh(connect(Platform(reply(headers=headers))))
    assert token.oddities == frozenset()
    assert token.meta == ResponseMeta(
        status=200,
        correlation_id=FIRST_ID,
        echoed=True,
        source=Source.PROVIDER,
        language="de",
        caching_forbidden=True,
        retry_after=5.0,
    )


def test_the_values_of_a_repeated_header_are_joined_to_a_list(connect: Connect) -> None:
    headers = [(name.encode(), value.encode()) for name, value in TOKEN_HEADERS.items()]
    repeated = [*headers, (b"Cache-Control", b"private"), (b"X-CorAPI-Source", b"PLATFORM")]
    meta = refresh(connect(Platform(reply(headers=repeated)))).meta
    assert meta is not None
    assert (meta.caching_forbidden, meta.source) == (True, Source.UNKNOWN)

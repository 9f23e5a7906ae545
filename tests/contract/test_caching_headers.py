"""Wrapper, contract and sandbox read `Cache-Control` and `Pragma` by the same rule.

Both are lists of directives (RFC 9111 sections 5.2 and 5.4). A directive counts if it is an element
of its own without an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jsonschema import Draft202012Validator

from blink_oauth.headers import CACHE_CONTROL, PRAGMA, read_meta
from blink_oauth_testing.sandbox.contract import shipped_contract
from blink_oauth_testing.sandbox.messages import TOKEN, Request, Response
from wrapper.harness import NOW

CONTRACT: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "spec/openapi.yaml").read_text("utf-8")
)
SCHEMAS = {CACHE_CONTROL: "CacheControl", PRAGMA: "Pragma"}
DIRECTIVES = {CACHE_CONTROL: "no-store", PRAGMA: "no-cache"}
REQUEST = Request(
    "POST", "/oauth/token", (("X-Correlation-ID", "corr-1"),), b"", certificate="fake"
)
PAIR = b'{"access_token": "fake-access", "token_type": "bearer"}'

# The lines of one header, with the directive in place of {}.
TABLE: list[tuple[tuple[str, ...], bool]] = [
    (("{}",), True),
    ((" {}\t",), True),
    (("private, {}, max-age=0",), True),
    (("private,{}",), True),
    ((", ,{},",), True),
    (("max-age=0", "{}"), True),
    (("{}", "max-age=60"), True),
    (("{}, {}",), True),
    (('private="set-cookie, x", {}',), True),
    ((r'x="a \" , b", {}',), True),
    ((r'x="\\", {}',), True),
    (('{}, private="never closed',), True),
    (("",), False),
    (("", ""), False),
    (("private",), False),
    (("{}d",), False),
    (("x-{}",), False),
    (("private {}",), False),
    (("{} private",), False),
    (("{};",), False),
    (("{}=1",), False),
    (("{}=",), False),
    (('"{}"',), False),
    (('private="a, {}"',), False),
    (('private="a, {}',), False),
    (('private="a', '{}"'), False),
    ((r'x="a\", {}, b"',), False),
    (("private=a\N{NO-BREAK SPACE}, \N{NO-BREAK SPACE}{}",), False),
]


def by_wrapper(name: str, lines: tuple[str, ...]) -> bool:
    """Return whether the wrapper finds the directive; the other header is right."""
    (other,) = DIRECTIVES.keys() - {name}
    headers = [(name, line.encode()) for line in lines] + [(other, DIRECTIVES[other].encode())]
    raw = [(key.encode(), value) for key, value in headers]
    meta = read_meta(200, httpx.Headers(raw), correlation_id="corr-1", now=NOW)
    return meta.caching_forbidden


def by_schema(name: str, lines: tuple[str, ...]) -> bool:
    """Return whether the header is valid by the schema of the contract."""
    schema = CONTRACT["components"]["schemas"][SCHEMAS[name]]
    return Draft202012Validator(schema).is_valid(", ".join(lines))


def by_sandbox(name: str, lines: tuple[str, ...]) -> bool:
    """Return whether the sandbox finds nothing wrong in a response with the header."""
    (other,) = DIRECTIVES.keys() - {name}
    headers = (
        ("X-Correlation-ID", "corr-1"),
        ("X-CorAPI-Source", "PROVIDER"),
        (other, DIRECTIVES[other]),
        *((name, line) for line in lines),
    )
    response = Response(200, headers).with_body(TOKEN, PAIR)
    violations = shipped_contract().response_violations("/oauth/token", REQUEST, response)
    assert violations in {(), (f"header {name}: pattern {pattern(name)}",)}
    return not violations


def pattern(name: str) -> str:
    """Return the pattern of a header in the contract."""
    found: str = CONTRACT["components"]["schemas"][SCHEMAS[name]]["pattern"]
    return found


@pytest.mark.parametrize("spell", [str.lower, str.title, str.upper])
@pytest.mark.parametrize("name", SCHEMAS)
def test_wrapper_contract_and_sandbox_read_a_list_of_directives_alike(
    name: str, spell: Callable[[str], str]
) -> None:
    for forms, expected in TABLE:
        lines = tuple(line.replace("{}", spell(DIRECTIVES[name])) for line in forms)
        read = (by_wrapper(name, lines), by_schema(name, lines), by_sandbox(name, lines))
        assert read == (expected, expected, expected), lines


def test_only_ascii_letters_are_equal_without_regard_to_case() -> None:
    lines = ("no-\N{LATIN SMALL LETTER LONG S}tore",)
    assert not by_wrapper(CACHE_CONTROL, lines)
    assert not by_schema(CACHE_CONTROL, lines)
    assert not by_sandbox(CACHE_CONTROL, lines)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_long_header_is_read_without_backtracking(name: str) -> None:
    for part in ('"a, ', ",", 'x="\\', "no-"):
        assert not by_wrapper(name, (part * 20_000,))
        assert not by_schema(name, (part * 20_000,))

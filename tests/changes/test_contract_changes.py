"""A change of the contract is detected where the wrapper depends on it.

Each test changes the contract in a copy of the tree and generates the code again. A name, status,
value or limit that is removed or changed is a type error in hand-written code or fails a test of
the wrapper. An optional addition is a line of contract.py and breaks nothing. A difference in a
generated file alone does not count as detected.

Needs the generator and mypy in one environment: the session `types` runs it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from attrs import frozen

from changes.edits import (
    CONFLICT,
    HEADERS,
    PATHS,
    RESPONSES,
    REVOKE,
    SCHEMAS,
    TOKEN,
    Change,
    Node,
    add_request_header,
    combined,
    put,
    remove,
    remove_request_header,
    rename,
    rename_component,
)
from contract_diff.consumers import Code

PROJECT = Path(__file__).parents[2]
SPEC = "spec/openapi.yaml"
API = "wrapper/blink_oauth/_api.py"
CONTRACT_TYPES = "generated/blink_oauth_api/contract.py"
MODELS = "generated/blink_oauth_api/models"
# Thousands of broken responses do not depend on the contract, and take longer than all other tests.
SLOW = ("test_mutations.py", "test_raw_responses.py")


class MypyError(NamedTuple):
    """A message of mypy, with the file and the line of code that it is about."""

    file: str
    line: int
    code: str
    message: str


# ---- the copy


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Copy the contract, the generated package, the wrapper and its tests."""
    root = tmp_path / "project"
    for folder in ("spec", "generated", "wrapper", "tests/wrapper"):
        shutil.copytree(PROJECT / folder, root / folder)
    for file in (
        "generator-config.yml",
        "pyproject.toml",
        "tests/conftest.py",
        "tests/flavours.py",
    ):
        shutil.copy2(PROJECT / file, root / file)
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder of mypy for all tests, so that it checks only what changed.

    It begins with what mypy has noted of the project, which mypy verifies.
    """
    folder = tmp_path_factory.mktemp("mypy")
    if (PROJECT / ".mypy_cache").exists():
        shutil.copytree(PROJECT / ".mypy_cache", folder, dirs_exist_ok=True)
    return folder


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a copy, with its packages, and the other packages of the project."""
    copied = [root / folder for folder in ("wrapper", "generated")]
    not_copied = [PROJECT / folder for folder in ("keeper", "cli", "testing")]
    return subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(map(str, copied + not_copied))},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def generate(root: Path, change: Change) -> None:
    """Change the contract of a copy and generate the code again."""
    contract = yaml.safe_load((root / SPEC).read_text("utf-8"))
    change(contract)
    (root / SPEC).write_text(yaml.safe_dump(contract, sort_keys=False), "utf-8")
    models = list((root / MODELS).glob("*.py"))
    result = run(root, str(PROJECT / "tools/generation.py"), "generate", "--root", str(root))
    assert result.returncode == 0, result  # a process that was killed has no message
    # mypy finds a module that was removed in the installed package, unless there is an empty one.
    for module in models:
        module.touch()


def type_errors(
    root: Path, cache: Path, folders: Sequence[str] = ("wrapper", "generated")
) -> list[MypyError]:
    """Return the errors that mypy reports for a copy, with the settings of the copy."""
    options = ("--cache-dir", str(cache), "--output", "json")
    result = run(root, "-m", "mypy", *options, *folders)
    assert result.returncode in {0, 1}, result
    reports = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert bool(reports) == bool(result.returncode)
    reports = [report for report in reports if report["severity"] == "error"]
    return [
        MypyError(
            report["file"],
            report["line"],
            (root / report["file"]).read_text("utf-8").splitlines()[report["line"] - 1].strip(),
            report["message"],
        )
        for report in reports
    ]


# ---- the table

# The rows of the table are tried in so many copies.
GROUPS = 7

STATUSES = "200, 400, 401, 403, 406, 415, 500, 502, 504"
WITHOUT_406 = "200, 400, 401, 403, 415, 500, 502, 504"

# The change, and the expected errors of mypy: a line of the wrapper and a part of the message.
TYPE_ERRORS: dict[str, tuple[Change, list[tuple[str, str]]]] = {
    "request header renamed": (
        put("components.parameters.TargetId.name", "X-CorAPI-Bank-ID"),
        [
            (
                "*(token[TARGET_ID], revocation[TARGET_ID]),",
                'TypedDict "RequestTokenRequestHeaders" has no key "X-CorAPI-Target-ID"',
            ),
            (
                "*(token[TARGET_ID], revocation[TARGET_ID]),",
                'TypedDict "RevokeTokenRequestHeaders" has no key "X-CorAPI-Target-ID"',
            ),
            ("**call.headers).parsed", 'Extra argument "x_cor_api_target_id"'),
            ("await request_token.asyncio_detailed(", 'Extra argument "x_cor_api_target_id"'),
        ],
    ),
    "request header renamed, its parameter in Python is not": (
        put("components.parameters.TargetId.name", "X-Cor-API-Target-ID"),
        [("*(token[TARGET_ID], revocation[TARGET_ID]),", 'has no key "X-CorAPI-Target-ID"')],
    ),
    "request header added as required": (
        add_request_header("X-Trace", required=True),
        [
            ("return request_token.sync_detailed(", 'Missing named argument "x_trace"'),
            ("await request_token.asyncio_detailed(", 'Missing named argument "x_trace"'),
        ],
    ),
    "response header renamed": (
        rename(f"{HEADERS}.X-CorAPI-Source", "X-CorAPI-Origin"),
        [
            (
                "*(token[SOURCE], revocation[SOURCE]),",
                'TypedDict "RequestTokenResponseHeaders" has no key "X-CorAPI-Source"',
            ),
            (
                "*(token[SOURCE], revocation[SOURCE]),",
                'TypedDict "RevokeTokenResponseHeaders" has no key "X-CorAPI-Source"',
            ),
        ],
    ),
    "response header of one operation removed": (
        remove(f"{RESPONSES}.TokenRevoked.headers.Pragma"),
        [
            (
                "*(token[PRAGMA], revocation[PRAGMA]),",
                'TypedDict "RevokeTokenResponseHeaders" has no key "Pragma"',
            )
        ],
    ),
    "response member renamed": (
        rename(f"{SCHEMAS}.TokenResponse.properties.expires_in", "lifetime"),
        [
            (
                "return token[token_member], error[error_member]",
                'TypedDict "TokenResponseMembers" has no key "expires_in"',
            )
        ],
    ),
    "response member renamed, its attribute in Python is not": (
        rename(f"{SCHEMAS}.TokenResponse.properties.expires_in", "expiresIn"),
        [
            (
                "return token[token_member], error[error_member]",
                'TypedDict "TokenResponseMembers" has no key "expires_in"',
            )
        ],
    ),
    "error member renamed": (
        rename(f"{SCHEMAS}.ErrorBody.properties.error", "code"),
        [
            (
                "return token[token_member], error[error_member]",
                'TypedDict "ErrorBodyMembers" has no key "error"',
            )
        ],
    ),
    "status added to the token request": (
        put(f"{TOKEN}.responses.409", CONFLICT),
        [
            (
                "return token, revocation",
                f'got "tuple[Literal[{STATUSES}, 409], Literal[{STATUSES}]]"',
            )
        ],
    ),
    "status added to the revocation": (
        put(f"{REVOKE}.responses.409", CONFLICT),
        [
            (
                "return token, revocation",
                f'got "tuple[Literal[{STATUSES}], Literal[{STATUSES}, 409]]"',
            )
        ],
    ),
    "status of the token request removed": (
        remove(f"{TOKEN}.responses.406"),
        [
            (
                "return status, status",
                f'expected "tuple[Literal[{WITHOUT_406}], Literal[{STATUSES}]]"',
            )
        ],
    ),
    "status of the revocation removed": (
        remove(f"{REVOKE}.responses.406"),
        [
            (
                "return status, status",
                f'expected "tuple[Literal[{STATUSES}], Literal[{WITHOUT_406}]]"',
            )
        ],
    ),
    "source added": (
        put(f"{SCHEMAS}.Source.enum", ["PLATFORM", "PROVIDER", "CACHE"]),
        [("return source", "got \"Literal['CACHE', 'PLATFORM', 'PROVIDER']\"")],
    ),
    "source removed": (
        put(f"{SCHEMAS}.Source.enum", ["PLATFORM"]),
        [("return source", "expected \"Literal['PLATFORM']\"")],
    ),
    "grant type renamed": (
        put(f"{SCHEMAS}.GrantType.enum", ["authorization_code", "refresh"]),
        [('grant_type="refresh_token",', "incompatible type \"Literal['refresh_token']\"")],
    ),
    "kind of token removed": (
        put(f"{SCHEMAS}.TokenTypeHint.enum", ["access_token"]),
        [
            (
                'token_type_hint=kind.value if "token_type_hint" in sent else UNSET,',
                "expected \"Literal['access_token'] | Unset\"",
            )
        ],
    ),
    "limit of the username changed for the token request": (
        put(f"{SCHEMAS}.TokenRequest.properties.username.maxLength", 63),
        [("assert MAX_USERNAME == contract.TOKEN_REQUEST_USERNAME_MAX_LENGTH", "Literal[63]")],
    ),
    "limit of the username changed for the revocation": (
        put(f"{SCHEMAS}.RevokeRequest.properties.username.maxLength", 63),
        [("assert MAX_USERNAME == contract.REVOKE_REQUEST_USERNAME_MAX_LENGTH", "Literal[63]")],
    ),
    "limit of the username removed": (
        remove(f"{SCHEMAS}.TokenRequest.properties.username.maxLength"),
        [
            (
                "assert MAX_USERNAME == contract.TOKEN_REQUEST_USERNAME_MAX_LENGTH",
                'no attribute "TOKEN_REQUEST_USERNAME_MAX_LENGTH"',
            )
        ],
    ),
    "limit of the correlation id changed": (
        put(f"{SCHEMAS}.CorrelationId.maxLength", 36),
        [("assert MAX_CORRELATION_ID == contract.CORRELATION_ID_MAX_LENGTH", "Literal[36]")],
    ),
    "form field becomes required": (
        put(f"{SCHEMAS}.TokenRequest.required", ["grant_type", "client_id", "username", "code"]),
        [("return TokenRequest(", 'Missing positional argument "code"')],
    ),
    "field of the revocation becomes required": (
        put(f"{SCHEMAS}.RevokeRequest.required", ["token", "username"]),
        [
            (
                'username=grant.username if "username" in sent else UNSET,',
                'incompatible type "str | Unset"; expected "str"',
            )
        ],
    ),
    "field of the revocation renamed, its parameter in Python is not": (
        rename(f"{SCHEMAS}.RevokeRequest.properties.token_type_hint", "tokenTypeHint"),
        [("return form[name]", 'has no key "token_type_hint"')],
    ),
    "form field renamed": (
        rename(f"{SCHEMAS}.TokenRequest.properties.redirect_uri", "redirect_url"),
        [("return TokenRequest(", 'Unexpected keyword argument "redirect_uri"')],
    ),
    "operation renamed": (
        put(f"{TOKEN}.operationId", "get_token"),
        [
            ("self._http.get(contract.REQUEST_TOKEN_PATH", 'no attribute "REQUEST_TOKEN_PATH"'),
            ("token: contract.RequestTokenStatus", '"contract.RequestTokenStatus" is not defined'),
        ],
    ),
}

TYPE_ERRORS |= {
    "request header of one operation removed": (
        remove_request_header("PsuIpAddress"),
        [
            ("return revoke_token.sync_detailed(", 'Extra argument "x_psu_ip_address"'),
            ("await revoke_token.asyncio_detailed(", 'Extra argument "x_psu_ip_address"'),
            (
                "*(token[PSU_IP_ADDRESS], revocation[PSU_IP_ADDRESS]),",
                'TypedDict "RevokeTokenRequestHeaders" has no key "X-PSU-IP-Address"',
            ),
        ],
    ),
    "response member and error member removed": (
        combined(
            remove(f"{SCHEMAS}.TokenResponse.properties.scope"),
            remove(f"{SCHEMAS}.ErrorBody.properties.instance"),
        ),
        [
            ("return token[token_member]", 'TypedDict "TokenResponseMembers" has no key "scope"'),
            ("return token[token_member]", 'TypedDict "ErrorBodyMembers" has no key "instance"'),
        ],
    ),
    "grant type removed": (
        put(f"{SCHEMAS}.GrantType.enum", ["refresh_token"]),
        [('grant_type="authorization_code",', "incompatible type \"Literal['authorization_code']")],
    ),
    "form field of one operation removed": (
        combined(
            remove(f"{SCHEMAS}.RevokeRequest.properties.username"),
            put(f"{SCHEMAS}.RevokeRequest.required", ["token", "client_id"]),
        ),
        [
            ("return RevokeRequest(", 'Unexpected keyword argument "username"'),
            (
                "assert MAX_USERNAME == contract.REVOKE_REQUEST_USERNAME_MAX_LENGTH",
                'no attribute "REVOKE_REQUEST_USERNAME_MAX_LENGTH"',
            ),
        ],
    ),
    "types of a form field and of a request header changed": (
        combined(
            put(f"{SCHEMAS}.TokenRequest.properties.code.type", "integer"),
            put("components.parameters.PsuIpAddress.schema", {"type": "integer"}),
        ),
        [
            ("code=code.reveal(),", 'incompatible type "str"; expected "int | Unset"'),
            ("**call.headers).parsed", 'Argument "x_psu_ip_address" to "sync_detailed"'),
        ],
    ),
    "schema of a form renamed": (
        rename_component("schemas", "TokenRequest", "TokenForm"),
        [
            (
                "from blink_oauth_api.models.token_request import TokenRequest",
                'has no attribute "TokenRequest"',
            ),
            (
                "assert MAX_USERNAME == contract.TOKEN_REQUEST_USERNAME_MAX_LENGTH",
                'no attribute "TOKEN_REQUEST_USERNAME_MAX_LENGTH"',
            ),
        ],
    ),
    "schema with a limit renamed": (
        rename_component("schemas", "CorrelationId", "Trace"),
        [
            (
                "assert MAX_CORRELATION_ID == contract.CORRELATION_ID_MAX_LENGTH",
                'no attribute "CORRELATION_ID_MAX_LENGTH"',
            )
        ],
    ),
    "status replaced, and source added": (
        combined(
            rename(f"{REVOKE}.responses.200", "204"),
            put(f"{SCHEMAS}.Source.enum", ["PLATFORM", "PROVIDER", "GATEWAY"]),
        ),
        [
            ("return token, revocation", f'got "tuple[Literal[{STATUSES}], Literal[204, '),
            ("return status, status", f'expected "tuple[Literal[{STATUSES}], Literal[204, '),
            ("return source", "got \"Literal['GATEWAY', 'PLATFORM', 'PROVIDER']\""),
        ],
    ),
}

FORM = "components.requestBodies.Token.content.application/x-www-form-urlencoded"

# The change, the test of tests/wrapper that fails, and a part of its report. The generated code
# applies most of these changes by itself, and the wrapper then sends a different request.
FAILING_TESTS: dict[str, tuple[Change, str, str]] = {
    "path of the token request": (
        rename(f"{PATHS}./oauth/token", "/oauth/tokens"),
        "test_requests.py::test_a_refresh_sends_the_form_of_rfc_6749_section_6[sync]",
        "/oauth/tokens",
    ),
    "path of the revocation": (
        rename(f"{PATHS}./oauth/revoke", "/oauth/revocation"),
        "test_requests.py::test_a_revocation_sends_the_form_of_rfc_7009_section_2_1_once_for",
        "/oauth/revocation",
    ),
    "method": (
        rename(TOKEN, "put"),
        "test_requests.py::test_a_request_has_these_headers_and_no_others[sync-exchange-",
        "'PUT' == 'POST'",
    ),
    "media type of the form": (
        rename(FORM, "application/json"),
        "test_requests.py::test_a_request_has_these_headers_and_no_others[sync-exchange-",
        "application/json",
    ),
    "form field renamed, its parameter in Python is not": (
        rename(f"{SCHEMAS}.TokenRequest.properties.redirect_uri", "redirectUri"),
        "test_requests.py::test_an_exchange_sends_the_form_of_rfc_6749_section_4_1_3[sync]",
        "redirectUri",
    ),
    "response header added as required": (
        put(f"{HEADERS}.X-Region", {"schema": {"type": "string"}, "required": True}),
        "test_headers.py::test_the_client_reads_the_required_response_headers",
        "X-Region",
    ),
}

TEXT = {"type": "string"}
ADDITIONS: list[tuple[Change, list[str]]] = [
    (add_request_header("X-Trace", required=False), ['        "X-Trace": NotRequired[str],']),
    (
        put(f"{HEADERS}.X-Region", {"schema": TEXT}),
        2 * ['        "X-Region": NotRequired[str],'],
    ),
    (
        put(f"{SCHEMAS}.TokenResponse.properties.id_token", TEXT),
        ["    id_token: NotRequired[str]"],
    ),
    (put(f"{SCHEMAS}.ErrorBody.properties.trace", TEXT), ["    trace: NotRequired[str]"]),
    (
        put(f"{SCHEMAS}.TokenRequest.properties.scope", TEXT | {"minLength": 1}),
        ["    scope: NotRequired[str]", "TOKEN_REQUEST_SCOPE_MIN_LENGTH: Final = 1"],
    ),
    (
        put(f"{SCHEMAS}.GrantType.enum", ["authorization_code", "refresh_token", "password"]),
        ['    grant_type: Literal["authorization_code", "refresh_token", "password"]'],
    ),
    # The wrapper does not use this limit, so the only sign is the difference in contract.py.
    (put(f"{SCHEMAS}.TargetId.maxLength", 30), ["TARGET_ID_MAX_LENGTH: Final = 30"]),
]
REPLACED = ['    grant_type: Literal["authorization_code", "refresh_token"]']


# ---- the consumers that tools/contract_consumers.py names


@pytest.fixture(scope="module")
def code() -> Code:
    """Return the code of the project, which no test changes."""
    return Code(PROJECT)


def differences(one: Node, other: Node, *at: str) -> Iterator[tuple[str, ...]]:
    """Yield the places of a contract that another one lacks, or has with another value."""
    for key, value in one.items():
        counterpart = other.get(key)
        if isinstance(value, dict) and isinstance(counterpart, dict):
            yield from differences(value, counterpart, *at, key)
        elif isinstance(value, list) and isinstance(counterpart, list):
            own = [position for position, item in enumerate(value) if item not in counterpart]
            yield from ((*at, key, str(position)) for position in own)
        elif value != counterpart:
            yield (*at, key)


def direct_consumers(code: Code, before: Node, after: Node) -> set[tuple[str, int]]:
    """Return the lines that use a generated name of a place that differs."""
    return {
        (one.file, one.line)
        for contract, other in ((before, after), (after, before))
        for place in differences(contract, other)
        for one in code.consumers(contract, place, other)
        if not one.via
    }


# ---- the tests


def test_an_unchanged_contract_causes_no_difference_and_no_error(tree: Path, cache: Path) -> None:
    before = (tree / CONTRACT_TYPES).read_bytes()
    generate(tree, lambda _: None)
    assert (tree / CONTRACT_TYPES).read_bytes() == before
    assert type_errors(tree, cache) == []


@frozen
class Row:
    """A row of the table, with the places that differ and the lines that use their names."""

    name: str
    places: set[tuple[str, ...]]
    lines: set[tuple[str, int]]

    def meets(self, other: Row) -> bool:
        """Return whether two changes concern the same line, or the same part of the contract."""
        pairs = product(self.places, other.places)
        nested = any(one[: len(two)] == two or two[: len(one)] == one for one, two in pairs)
        return nested or bool(self.lines & other.lines)


@pytest.fixture(scope="module")
def groups(code: Code) -> list[list[Row]]:
    """Return the rows of the table in groups: no two of one group meet, so one copy serves all."""
    found: list[list[Row]] = []
    contract = yaml.safe_load((PROJECT / SPEC).read_text("utf-8"))
    for name, (change, _) in TYPE_ERRORS.items():
        after = deepcopy(contract)
        change(after)
        differing = (*differences(contract, after), *differences(after, contract))
        # A list is changed as a whole, one message tells the statuses of both operations, and
        # without an operation nothing else is seen of it.
        places = {place[:-1] if place[-1].isdigit() else place for place in differing}
        places = {
            place[:1] if place[0] == "paths" and "responses" in place else place for place in places
        }
        places = {() if place[-1] == "operationId" else place for place in places}
        row = Row(name, places, direct_consumers(code, contract, after) - imports(PROJECT))
        group = next((one for one in found if not any(map(row.meets, one))), None)
        found += [] if group else [[]]
        (found[-1] if group is None else group).append(row)
    return found


@pytest.mark.parametrize("number", range(GROUPS))
def test_a_removed_or_changed_name_or_value_is_a_type_error_in_the_wrapper(
    tree: Path, cache: Path, groups: list[list[Row]], number: int
) -> None:
    assert len(groups) == GROUPS
    generate(tree, combined(*(TYPE_ERRORS[row.name][0] for row in groups[number])))
    errors = type_errors(tree, cache)
    assert {error.file for error in errors} == {API}
    missing = [
        (row.name, code, message)
        for row in groups[number]
        for code, message in TYPE_ERRORS[row.name][1]
        if not any(
            code in error.code and message in error.message
            for error in errors
            if (error.file, error.line) in row.lines
        )
    ]
    assert missing == [], errors
    assert set().union(*(row.lines for row in groups[number])) == {
        (error.file, error.line) for error in errors
    }


def imports(root: Path) -> set[tuple[str, int]]:
    """Return the lines that import operations.

    They are no error here: mypy finds a module that was removed in the installed package.
    """
    return {(API, line) for line in lines_with(root / API, "from blink_oauth_api.api.")}


TOKENS, META = "wrapper/blink_oauth/tokens.py", "wrapper/blink_oauth/headers.py"
CONTEXT = "wrapper/blink_oauth/context.py"
# The place of the contract, our name that depends on it, and how to rename that.
RENAMED: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    (
        f"{SCHEMAS}.TokenResponse.properties.scope",
        "Token.scope",
        TOKENS,
        [
            ("\n    scope: frozenset[str]", "\n    extent: frozenset[str]"),
            ("\n        scope: frozenset[str]", "\n        extent: frozenset[str]"),
            ("scope=scope", "scope=extent"),
        ],
    ),
    (
        "components.headers.Source",
        "ResponseMeta.source",
        META,
        [("\n    source: Source", "\n    origin: Source")],
    ),
    (
        "components.headers.ContentLanguage",
        "ResponseMeta.language",
        META,
        [("\n    language: str", "\n    tongue: str")],
    ),
    (
        f"{SCHEMAS}.TokenRequest.properties.username.maxLength",
        "MAX_USERNAME",
        CONTEXT,
        [("\nMAX_USERNAME: Final", "\nLONGEST_USERNAME: Final")],
    ),
]


def test_the_code_that_depends_on_a_name_of_ours_is_where_mypy_reports_that_it_was_renamed(
    tree: Path, cache: Path, code: Code
) -> None:
    others = ("keeper", "testing", "cli")
    for folder in others:
        shutil.copytree(PROJECT / folder, tree / folder)
    contract = yaml.safe_load((tree / SPEC).read_text("utf-8"))
    expected: set[tuple[str, int]] = set()
    for place, name, file, changes in RENAMED:
        text = (tree / file).read_text("utf-8")
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tree / file).write_text(text, "utf-8")
        consumers = code.consumers(contract, tuple(place.split(".")))
        found = {(one.file, one.line) for one in consumers if one.via == name}
        assert len(found) > 1, name
        expected |= found
    errors = type_errors(tree, cache, ("wrapper", "generated", *others))
    # A line that imports a constant is an error if it is gone; the lines that use the import are
    # none. The definition is the line that was changed.
    reported = {(error.file, error.line) for error in errors if " import " not in error.code}
    unseen = {(API, line) for line in lines_with(tree / API, "assert MAX_USERNAME ==")}
    unseen |= {(CONTEXT, line) for line in lines_with(tree / CONTEXT, "LONGEST_USERNAME: Final")}
    assert expected - unseen == reported
    assert {file.partition("/")[0] for file, _ in reported} == {"wrapper", *others}


def lines_with(path: Path, text: str) -> list[int]:
    """Return the numbers of the lines that contain a text."""
    lines = enumerate(path.read_text("utf-8").splitlines(), start=1)
    return [number for number, line in lines if text in line]


@pytest.mark.parametrize(("change", "test", "report"), FAILING_TESTS.values(), ids=FAILING_TESTS)
def test_a_change_without_a_type_error_fails_a_test_of_the_wrapper(
    tree: Path, change: Change, test: str, report: str
) -> None:
    generate(tree, change)
    result = run(tree, "-m", "pytest", "-vv", f"tests/wrapper/{test.partition('::')[0]}")
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"FAILED tests/wrapper/{test}" in result.stdout
    assert report in result.stdout


def test_optional_additions_add_lines_to_contract_py_and_break_nothing(
    tree: Path, cache: Path
) -> None:
    before = Counter((tree / CONTRACT_TYPES).read_text("utf-8").splitlines())
    generate(tree, combined(*(change for change, _ in ADDITIONS)))
    after = Counter((tree / CONTRACT_TYPES).read_text("utf-8").splitlines())
    assert after - before == Counter(line for _, lines in ADDITIONS for line in lines)
    assert before - after == Counter(REPLACED)
    assert type_errors(tree, cache) == []
    for name in SLOW:
        (tree / "tests/wrapper" / name).unlink()
    result = run(tree, "-m", "pytest", "-q", "tests/wrapper")
    assert result.returncode == 0, result.stdout + result.stderr

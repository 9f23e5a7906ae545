"""generated/ equals what the generator makes of the contract, byte for byte; drift is reported.

A test that writes works on a copy of the tree. Only requirements/generate.txt is needed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from difflib import unified_diff
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest

from generation import main, reasons

PROJECT = Path(__file__).parents[2]
PACKAGE = "generated/blink_oauth_api"
MODEL = f"{PACKAGE}/models/token_request.py"
CONTRACT_TYPES = f"{PACKAGE}/contract.py"
SURFACE = "generated/API.md"
PROVENANCE = "generated/provenance.json"

# The worked example of CONTRIBUTING.md: one more optional field in the form of the token request.
SCOPE = """\
        scope:
          type: string
          description: A narrower scope than the one granted.
          minLength: 1
          x-blink-evidence: provisional
"""

SMALL = """\
openapi: "3.1.0"
info: {title: small, version: "1"}
paths:
  /look:
    get:
      operationId: look
      responses:
        "204": {description: Nothing.}
"""

Snapshot = dict[str, bytes]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the files that the generation reads and writes."""
    return copied(tmp_path / "project")


def copied(root: Path) -> Path:
    """Copy the files that the generation reads and writes into a folder, and return it."""
    for folder in ("spec", "generated"):
        shutil.copytree(
            PROJECT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(PROJECT / "generator-config.yml", root)
    return root


class Result(NamedTuple):
    """The exit status of a command, and what it printed on both streams."""

    returncode: int
    stdout: str
    stderr: str


def run(command: str, root: Path) -> Result:
    """Run a command of tools/generation.py on a tree, in this process."""
    with redirect_stdout(StringIO()) as output, redirect_stderr(StringIO()) as errors:
        status = main([command, "--root", str(root)])
    return Result(status, output.getvalue(), errors.getvalue())


def run_program(
    command: str, root: Path, *, output: int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run tools/generation.py on a tree in a process of its own, with the default PATH only."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "tools/generation.py"), command, "--root", str(root)],
        env={"PATH": os.defpath, **environment},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )


def snapshot(root: Path) -> Snapshot:
    """Read every file of a tree."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text, which must occur."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def add_scope(root: Path) -> None:
    """Add the field of the worked example to the contract."""
    edit(root / "spec/openapi.yaml", "      allOf:\n", SCOPE + "      allOf:\n")


def edit_a_file(root: Path) -> None:
    edit(root / MODEL, "client_id: str", "client_id: bytes")


def remove_a_file(root: Path) -> None:
    (root / MODEL).unlink()


def edit_the_contract_types(root: Path) -> None:
    edit(root / CONTRACT_TYPES, "MAX_LENGTH: Final = 64", "MAX_LENGTH: Final = 65")


def remove_the_contract_types(root: Path) -> None:
    (root / CONTRACT_TYPES).unlink()


def remove_the_type_marker(root: Path) -> None:
    (root / PACKAGE / "py.typed").unlink()


def add_a_file(root: Path) -> None:
    (root / PACKAGE / "models/left_over.py").write_text("ANSWER = 42\n", encoding="utf-8")


def add_an_empty_file(root: Path) -> None:
    (root / "generated/__init__.py").touch()


def edit_the_surface(root: Path) -> None:
    edit(root / SURFACE, "value `PROVIDER`", "value `GATEWAY`")


def change_the_contract(root: Path) -> None:
    edit(root / "spec/openapi.yaml", "maxLength: 64", "maxLength: 63")


def change_a_setting(root: Path) -> None:
    edit(root / "generator-config.yml", "literal_enums: true", "literal_enums: false")


def upgrade_the_generator(root: Path) -> None:
    """Make the provenance tell that the committed files were made by an older generator."""
    record = json.loads((root / PROVENANCE).read_text("utf-8"))
    record["made_with"]["openapi-python-client"] = "0.1"
    (root / PROVENANCE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


BY_HAND = (
    "Neither the contract nor the settings nor the generator changed since: a generated file was"
    " edited by hand, or tools/ writes another text.\n"
)
CONTRACT = "The contract changed since: spec/openapi.yaml."
SETTINGS = "The settings changed since: generator-config.yml."
TWO_COMMITS = "Make two commits: first the upgrade of the generator, then the contract."


def test_the_committed_package_is_what_the_generator_makes() -> None:
    result = run_program("drift", PROJECT)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("change", "reported", "reason"),
    [
        (
            edit_a_file,
            [f"changed  {MODEL}", "-    client_id: bytes", "+    client_id: str"],
            BY_HAND,
        ),
        (remove_a_file, [f"missing  {MODEL}", "+class TokenRequest:"], BY_HAND),
        (
            edit_the_contract_types,
            [f"changed  {CONTRACT_TYPES}", "-CORRELATION_ID_MAX_LENGTH: Final = 65"],
            BY_HAND,
        ),
        (
            remove_the_contract_types,
            [f"missing  {CONTRACT_TYPES}", "+CORRELATION_ID_MAX_LENGTH: Final = 64"],
            BY_HAND,
        ),
        (remove_the_type_marker, [f"missing  {PACKAGE}/py.typed"], BY_HAND),
        (add_a_file, [f"extra    {PACKAGE}/models/left_over.py", "-ANSWER = 42"], BY_HAND),
        (add_an_empty_file, ["extra    generated/__init__.py"], BY_HAND),
        (
            change_the_contract,
            [
                f"changed  {PROVENANCE}",
                '+    "spec/openapi.yaml":',
                f"changed  {CONTRACT_TYPES}",
                "+CORRELATION_ID_MAX_LENGTH: Final = 63",
            ],
            f"{CONTRACT}\n",
        ),
        (
            add_scope,
            [f"changed  {PROVENANCE}", f"changed  {MODEL}", f"changed  {CONTRACT_TYPES}"],
            f"{CONTRACT}\n",
        ),
        (
            change_a_setting,
            [f"changed  {PROVENANCE}", '+    "generator-config.yml":', f"changed  {MODEL}"],
            f"{SETTINGS}\n",
        ),
        (
            edit_the_surface,
            [f"changed  {SURFACE}", "-  - `Source` value `GATEWAY`"],
            BY_HAND,
        ),
    ],
)
def test_drift_is_reported_and_nothing_is_written(
    tree: Path, change: Callable[[Path], None], reported: list[str], reason: str
) -> None:
    change(tree)
    before = snapshot(tree)
    result = run("drift", tree)
    assert result.returncode == 1
    assert [text for text in reported if text not in result.stdout] == []
    assert f"with generator-config.yml.\n{reason}" in result.stderr
    assert "nox -s generate" in result.stderr
    assert snapshot(tree) == before


def record(made_with: str = "1", spec: str = "a", settings: str = "b") -> bytes:
    """Return a provenance.json."""
    made_from = {"spec/openapi.yaml": spec, "generator-config.yml": settings}
    tools = {"openapi-python-client": "9", "ruff": made_with}
    return json.dumps({"made_with": tools, "made_from_sha256": made_from}).encode()


GENERATOR = "The generator or ruff is another version: ruff 1, now 2."
UNKNOWN = f"{PROVENANCE} is missing or damaged, so the reason is unknown."


@pytest.mark.parametrize(
    ("committed", "fresh", "reason"),
    [
        (record(), record(), BY_HAND.rstrip("\n")),
        (record(), record(spec="c"), CONTRACT),
        (record(), record(settings="c"), SETTINGS),
        (record(), record(spec="c", settings="c"), f"{CONTRACT} {SETTINGS}"),
        (record(), record(made_with="2"), GENERATOR),
        (record(), record(made_with="2", settings="c"), f"{SETTINGS} {GENERATOR}"),
        (record(), record(made_with="2", spec="c"), f"{CONTRACT} {GENERATOR} {TWO_COMMITS}"),
        (None, record(), UNKNOWN),
        (b"{}", record(), UNKNOWN),
        (b"[1]", record(), UNKNOWN),
        (b"<<<<<<< ours", record(), UNKNOWN),
    ],
)
def test_drift_tells_its_reason_by_the_provenance(
    committed: bytes | None, fresh: bytes, reason: str
) -> None:
    assert reasons(committed, fresh) == reason


def test_generate_says_that_two_causes_are_two_commits(tree: Path) -> None:
    upgrade_the_generator(tree)
    change_the_contract(tree)
    result = run("generate", tree)
    assert result.returncode == 0
    assert result.stderr.startswith(f"{CONTRACT} The generator or ruff is another version: ")
    assert result.stderr.endswith(f" {TWO_COMMITS}\n")


def test_a_reader_that_closes_the_output_gets_no_traceback(tree: Path) -> None:
    edit_a_file(tree)
    output, input_ = os.pipe()
    os.close(output)
    result = run_program("drift", tree, output=input_)
    os.close(input_)
    assert result.returncode == 1
    assert result.stderr.startswith("Drift: ")
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ("literal_enum: true\n", "literal_enum: Extra inputs are not permitted"),
        ("class_overrides: {A: {klass: B}}\n", "class_overrides.A.klass: Extra inputs"),
        ("literal_enums: perhaps\n", "literal_enums: Input should be a valid boolean"),
        ("- literal_enums\n", "generator-config.yml: Input should be"),
        ("literal_enums: [\n", "generator-config.yml cannot be read"),
        ("literal_enums: true\nliteral_enums: true\n", "generator-config.yml cannot be read"),
    ],
)
def test_settings_that_the_generator_would_ignore_or_misread_are_refused(
    tree: Path, settings: str, reported: str
) -> None:
    (tree / "generator-config.yml").write_text(settings, encoding="utf-8")
    before = snapshot(tree)
    result = run("drift", tree)
    assert (result.returncode, result.stdout) == (2, "")
    assert reported in result.stderr
    assert "Nothing was generated." in result.stderr
    assert snapshot(tree) == before


@pytest.mark.parametrize(
    ("path", "old", "new", "reported"),
    [
        # The generator would leave out the operation, print a warning and succeed.
        ("spec/openapi.yaml", "TargetId:\n      type: string", "TargetId:", "TargetId"),
        ("spec/openapi.yaml", 'openapi: "3.1.0"', 'openapi: "4.0.0"', "4.0.0"),
        ("spec/openapi.yaml", "      operationId:", "\toperationId:", "found character '\\t'"),
        ("spec/openapi.yaml", '        "504":\n', "        504:\n", "should be a valid string"),
        # The generator would skip a hook that it cannot find.
        ("generator-config.yml", '"ruff check', '"rough check', "rough is not in PATH"),
        ("generator-config.yml", "--select F,I,UP", "--select NONE", "ruff failed"),
    ],
)
def test_a_warning_of_the_generator_is_a_failure(
    tree: Path, path: str, old: str, new: str, reported: str
) -> None:
    edit(tree / path, old, new)
    before = snapshot(tree)
    result = run("generate", tree)
    assert (result.returncode, result.stdout) == (2, "")
    assert reported in result.stderr
    assert snapshot(tree) == before


@pytest.mark.parametrize(
    ("old", "new", "reported"),
    [
        pytest.param(
            "      operationId: request_token\n",
            "",
            "POST /oauth/token has no operationId; contract.py needs it.",
            id="operation without a name",
        ),
        pytest.param(
            '        "504":\n',
            "        default:\n",
            "POST /oauth/token documents default. Document each status by its number.",
            id="any status",
        ),
        pytest.param(
            '        "504":\n',
            '        "5XX":\n',
            "POST /oauth/token documents 5XX. Document each status by its number.",
            id="a range of statuses",
        ),
        pytest.param(
            '          $ref: "#/components/headers/Pragma"\n',
            "          content: {text/plain: {schema: {type: string}}}\n",
            "Pragma of RequestTokenResponseHeaders has no schema; contract.py needs it.",
            id="header without a schema",
        ),
        pytest.param(
            "operationId: revoke_token",
            "operationId: request_token",
            "the generator made no module request_token for POST /oauth/token (two operations of"
            " this name?).",
            id="two operations of one name",
        ),
        pytest.param(
            "#/components/headers/Pragma",
            "#/components/headers/Missing",
            "#/components/headers/Missing does not resolve.",
            id="reference to nothing",
        ),
        pytest.param(
            "    Pragma:\n      description:",
            '    Pragma:\n      $ref: "#/components/headers/Pragma"\n      description:',
            "#/components/headers/Pragma does not resolve.",
            id="reference to itself",
        ),
    ],
)
def test_a_defect_that_the_generator_does_not_notice_is_reported_and_is_no_drift(
    tree: Path, old: str, new: str, reported: str
) -> None:
    edit(tree / "spec/openapi.yaml", old, new)
    result = run("drift", tree)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"Nothing was generated. Correct spec/openapi.yaml: {reported}\n"


def test_a_contract_without_components_gets_contract_types(tree: Path) -> None:
    (tree / "spec/openapi.yaml").write_text(SMALL, encoding="utf-8")
    result = run("generate", tree)
    assert (result.returncode, result.stderr) == (0, "")
    lines = (tree / CONTRACT_TYPES).read_text("utf-8").partition("TypedDict\n")[2].split("\n")
    assert [line for line in lines if line] == [
        'LOOK_PATH: Final = "/look"',
        "LookStatus = Literal[204]",
        *("class LookRequestHeaders(TypedDict):", "    pass"),
        *("class LookResponseHeaders(TypedDict):", "    pass"),
    ]


ODD_SCHEMAS = """\
    3d-thing:
      type: object
      properties: {a-b: {type: string, maxLength: 3}, 2x: {type: integer}}
    4-text: {type: string, maxLength: 4}
    5-values: {type: string, enum: [a]}
"""
ODD_PATH = """\
  /oauth/{kind}:
    parameters:
      - {name: kind, in: path, required: true, schema: {type: string, maxLength: 5}}
      - {name: X-Trace, in: header, schema: {type: string}}
    get:
      operationId: look
      tags: [oauth]
      parameters:
        - {name: X-Trace, in: header, required: true, schema: {type: string, maxLength: 6}}
      responses: {"204": {description: "a `b` | c \\n\\n- d"}}
    delete:
      operationId: forget
      tags: [oauth]
      responses: {"204": {description: Nothing.}}
"""


def test_odd_names_paths_and_bytes_of_a_contract_are_generated(tree: Path) -> None:
    spec = tree / "spec/openapi.yaml"
    before = snapshot(tree)
    edit(spec, "    TokenRequest:\n", f"{ODD_SCHEMAS}    TokenRequest:\n")
    edit(spec, "  /oauth/token:\n", f"{ODD_PATH}  /oauth/token:\n")
    # As an editor on Windows may write it.
    spec.write_bytes(b"\xef\xbb\xbf" + spec.read_bytes().replace(b"\n", b"\r\n"))
    result = run("generate", tree)
    assert (result.returncode, result.stderr) == (0, "")
    added = difference(SURFACE, before, snapshot(tree), context=0).splitlines()[2:]
    assert [line for line in added if not line.startswith("@@")] == [
        "+- `look`: `GET /oauth/{kind}`, returns `Response[Any]`",
        "+  - `look` argument `x_trace: str`: header `X-Trace`, required, length `0..6`",
        "+- `forget`: `DELETE /oauth/{kind}`, returns `Response[Any]`",
        "+  - `forget` argument `x_trace: str`: header `X-Trace`, optional",
        "+- `look` and `forget` argument `kind: str`: path `kind`, required, length `0..5`",
        "+- `look` and `forget` status `204`: no body",
        "+- `Field3DThing`: keeps other members",
        "+  - `Field3DThing.a_b: str`: member `a-b`, optional, length `0..3`",
        "+  - `Field3DThing.field_2x: int`: member `2x`, optional",
        "+- `Field5Values`: `str`",
        "+  - `Field5Values` value `a`",
        "+- `Field4Text`: `str`, length `0..4`",
    ]


def test_a_missing_contract_is_reported(tree: Path) -> None:
    (tree / "spec/openapi.yaml").unlink()
    result = run("drift", tree)
    assert result.returncode == 2
    assert result.stderr == "Nothing was generated. spec/openapi.yaml is missing.\n"


def test_generation_repairs_every_kind_of_drift(tree: Path) -> None:
    before = snapshot(tree)
    add_a_file(tree)
    add_an_empty_file(tree)
    remove_the_type_marker(tree)
    edit_a_file(tree)
    edit_the_contract_types(tree)
    edit_the_surface(tree)
    assert run("generate", tree).returncode == 0
    assert snapshot(tree) == before
    assert run("drift", tree).returncode == 0


def test_generation_from_nothing_gives_the_same_bytes_whatever_the_hash_seed(tree: Path) -> None:
    before = snapshot(tree)
    for seed in ("1", "2"):
        shutil.rmtree(tree / PACKAGE)
        (tree / PROVENANCE).unlink()
        assert run_program("generate", tree, PYTHONHASHSEED=seed).returncode == 0
        assert snapshot(tree) == before


def test_a_ruff_configuration_in_a_parent_folder_has_no_influence(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ruff.toml").write_text("line-length = 40\n", encoding="utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = run("drift", tree)
    assert (result.returncode, result.stderr) == (0, "")


def test_provenance_has_tools_and_sources_and_nothing_of_the_machine() -> None:
    record = json.loads((PROJECT / PROVENANCE).read_text(encoding="utf-8"))
    pins = (PROJECT / "requirements/generate.txt").read_text(encoding="utf-8")
    for tool, version in record["made_with"].items():
        assert re.search(rf"^{re.escape(tool)}=={re.escape(version)} ", pins, re.MULTILINE)
    assert record.keys() == {"made_with", "made_from_sha256"}
    assert record["made_from_sha256"].keys() == {"spec/openapi.yaml", "generator-config.yml"}
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in record["made_from_sha256"].values())


def test_nothing_is_generated_inside_the_tree(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tree))
    result = run("drift", tree)
    assert result.returncode == 2
    assert "TMPDIR" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "removed", "added", "facts"),
    [
        pytest.param(
            '        "504":\n',
            '        "503":\n          $ref: "#/components/responses/BadGateway"\n        "504":\n',
            ["RequestTokenStatus = Literal[200, 400, 401, 403, 406, 415, 500, 502, 504]"],
            ["RequestTokenStatus = Literal[200, 400, 401, 403, 406, 415, 500, 502, 503, 504]"],
            [
                (
                    "+  - `request_token` status `503`: `ErrorBody` as `application/json`,"
                    " `application/problem+json`"
                ),
            ],
            id="status",
        ),
        pytest.param(
            "name: X-CorAPI-Target-ID",
            "name: X-CorAPI-Bank-ID",
            2 * ['        "X-CorAPI-Target-ID": str,'],
            2 * ['        "X-CorAPI-Bank-ID": str,'],
            [
                (
                    "-- `request_token` and `revoke_token` argument `x_cor_api_target_id: str`:"
                    " header `X-CorAPI-Target-ID`, required, `TargetId`"
                ),
                (
                    "+- `request_token` and `revoke_token` argument `x_cor_api_bank_id: str`:"
                    " header `X-CorAPI-Bank-ID`, required, `TargetId`"
                ),
            ],
            id="request header of both operations",
        ),
        pytest.param(
            "        Pragma:\n",
            "        X-Trace:\n          schema:\n            type: string\n        Pragma:\n",
            [],
            ['        "X-Trace": NotRequired[str],'],
            [
                "+  - `request_token` response header `X-Trace`: optional, `str`, on `200`",
            ],
            id="optional response header",
        ),
        pytest.param(
            "  /oauth/token:\n",
            "  /oauth/token:\n    parameters:\n"
            "      - {name: X-Trace, in: header, schema: {type: string}}\n",
            [],
            ['        "X-Trace": NotRequired[str],'],
            [
                "+  - `request_token` argument `x_trace: str`: header `X-Trace`, optional",
            ],
            id="request header of a path",
        ),
        pytest.param(
            '        Content-Language:\n          $ref: "#/components/headers/ContentLanguage"\n',
            "        Content-Language:\n          schema:\n            type: integer\n",
            2 * ['        "Content-Language": NotRequired[str],'],
            2 * ['        "Content-Language": NotRequired[int | str],'],
            [
                (
                    "-- `request_token` and `revoke_token` response header `Content-Language`:"
                    " required, `ContentLanguage`, on every status but `200`"
                ),
                (
                    "+- `request_token` and `revoke_token` response header `Content-Language`:"
                    " optional, `int`, on `400`"
                ),
                (
                    "+- `request_token` and `revoke_token` response header `Content-Language`:"
                    " required, `ContentLanguage`, on every status but `200`, `400`"
                ),
            ],
            id="response header that has another type for one status",
        ),
        pytest.param(
            "between a client and a server\n      required: true\n",
            "between a client and a server\n      required: false\n",
            2 * ['        "X-Correlation-ID": str,'],
            2 * ['        "X-Correlation-ID": NotRequired[str],'],
            [
                (
                    "-- `request_token` and `revoke_token` response header `X-Correlation-ID`:"
                    " required, `CorrelationId`, on every status"
                ),
                (
                    "+- `request_token` and `revoke_token` response header `X-Correlation-ID`:"
                    " optional, `CorrelationId`, on every status"
                ),
            ],
            id="response header no longer required",
        ),
        pytest.param(
            "        expires_in:\n          type: integer\n",
            "        expires_at:\n          type: string\n",
            ["    expires_in: NotRequired[int]"],
            ["    expires_at: NotRequired[str]"],
            [
                "-  - `TokenResponse.expires_in: int`: optional",
                "+  - `TokenResponse.expires_at: str`: optional",
            ],
            id="member",
        ),
        pytest.param(
            "required: [access_token, token_type]",
            "required: [access_token, token_type, expires_in]",
            ["    expires_in: NotRequired[int]"],
            ["    expires_in: int"],
            [
                "-  - `TokenResponse.expires_in: int`: optional",
                "+  - `TokenResponse.expires_in: int`: required",
            ],
            id="required member",
        ),
        pytest.param(
            "enum: [authorization_code, refresh_token]",
            "enum: [authorization_code, refresh_token, password]",
            ['    grant_type: Literal["authorization_code", "refresh_token"]'],
            ['    grant_type: Literal["authorization_code", "refresh_token", "password"]'],
            [
                "+  - `GrantType` value `password`",
            ],
            id="value",
        ),
        pytest.param(
            "maxLength: 64",
            "maxLength: 63",
            ["CORRELATION_ID_MAX_LENGTH: Final = 64"],
            ["CORRELATION_ID_MAX_LENGTH: Final = 63"],
            [
                "-- `CorrelationId`: `str`, length `1..64`, pattern `^[!-~]+$`",
                "+- `CorrelationId`: `str`, length `1..63`, pattern `^[!-~]+$`",
            ],
            id="limit of a header",
        ),
        pytest.param(
            "user's software.\n          minLength: 1\n          maxLength: 64\n",
            "user's software.\n          minLength: 2\n",
            [
                "TOKEN_REQUEST_USERNAME_MIN_LENGTH: Final = 1",
                "TOKEN_REQUEST_USERNAME_MAX_LENGTH: Final = 64",
            ],
            ["TOKEN_REQUEST_USERNAME_MIN_LENGTH: Final = 2"],
            [
                "-  - `TokenRequest.username: str`: required, length `1..64`",
                "+  - `TokenRequest.username: str`: required, length `2..`",
            ],
            id="limits of a field",
        ),
    ],
)
def test_the_contract_types_and_the_surface_follow_the_contract(
    tree: Path, *, old: str, new: str, removed: list[str], added: list[str], facts: list[str]
) -> None:
    before = snapshot(tree)
    edit(tree / "spec/openapi.yaml", old, new)
    assert run("generate", tree).returncode == 0
    after = snapshot(tree)
    types = (Counter(each[CONTRACT_TYPES].decode().splitlines()) for each in (before, after))
    old_types, new_types = types
    assert (old_types - new_types, new_types - old_types) == (Counter(removed), Counter(added))
    changed = difference(SURFACE, before, after, context=0).splitlines()[2:]
    assert [line for line in changed if not line.startswith("@@")] == facts


def test_the_contract_types_state_that_they_are_generated() -> None:
    text = (PROJECT / CONTRACT_TYPES).read_text("utf-8")
    note = text.partition('"""')[2].partition('"""')[0]
    assert "Generated from spec/openapi.yaml by tools/generation.py; do not edit." in note
    assert set(re.findall("^(?:from|import) .*", text, re.MULTILINE)) == {
        "from typing import Final, Literal, NotRequired, TypedDict"
    }


@pytest.fixture(scope="module")
def worked_example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, Snapshot, str]:
    """Generate with the field of the worked example: the files before and after, and the output."""
    root = copied(tmp_path_factory.mktemp("worked_example"))
    before = snapshot(root)
    add_scope(root)
    result = run("generate", root)
    assert result.returncode == 0
    return before, snapshot(root), result.stdout


def test_a_new_form_field_changes_one_model_its_types_one_fact_and_the_provenance(
    worked_example: tuple[Snapshot, Snapshot, str],
) -> None:
    before, after, _ = worked_example
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == {"spec/openapi.yaml", SURFACE, CONTRACT_TYPES, MODEL, PROVENANCE}
    assert set(after[SURFACE].splitlines()) - set(before[SURFACE].splitlines()) == {
        b"  - `TokenRequest.scope: str`: optional, length `1..`"
    }
    added = set(after[MODEL].splitlines()) - set(before[MODEL].splitlines())
    assert set(before[MODEL].splitlines()) <= set(after[MODEL].splitlines())
    assert b"    scope: str | Unset = UNSET" in added
    assert len(added) <= 8
    types_before = Counter(before[CONTRACT_TYPES].splitlines())
    types_after = Counter(after[CONTRACT_TYPES].splitlines())
    assert types_before <= types_after
    assert types_after - types_before == Counter(
        [b"    scope: NotRequired[str]", b"TOKEN_REQUEST_SCOPE_MIN_LENGTH: Final = 1"]
    )


def test_contributing_shows_the_exact_diff_of_this_change(
    worked_example: tuple[Snapshot, Snapshot, str],
) -> None:
    page = (PROJECT / "CONTRIBUTING.md").read_text("utf-8").partition("### A response header\n")[0]
    before, after, printed = worked_example
    assert f"```console\n{printed}```\n" in page
    contract, generated = re.findall(r"```diff\n(.*?)```", page, re.DOTALL)
    assert [line for line in contract.splitlines() if re.match(r"[+-](?![+-])", line)] == [
        f"+{line}" for line in SCOPE.splitlines()
    ]
    assert hunks(generated) == hunks(
        "".join(difference(path, before, after) for path in (SURFACE, CONTRACT_TYPES, MODEL))
    )


def hunks(diff: str) -> str:
    """Return a diff without line numbers, which change with every line above them."""
    return re.sub(r"^@@ .*", "@@", diff, flags=re.MULTILINE)


def difference(path: str, before: Snapshot, after: Snapshot, *, context: int = 3) -> str:
    """Return the unified diff of a file between two snapshots."""
    old, new = (one[path].decode().splitlines(keepends=True) for one in (before, after))
    return "".join(unified_diff(old, new, f"a/{path}", f"b/{path}", n=context))

"""Generate the low-level client from the contract, or compare the committed one with it.

    python tools/generation.py generate   rewrite generated/ from spec/openapi.yaml
    python tools/generation.py drift      compare generated/ with a new generation, write nothing

Needs an environment with requirements/generate.txt. Exit status: 0 done or no drift, 1 drift,
2 nothing was generated.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from attrs import evolve
from openapi_python_client import generate as generate_client
from openapi_python_client.config import Config, ConfigFile, MetaType
from openapi_python_client.parser.errors import GeneratorError, ParseError
from openapi_python_client.strings import PythonIdentifier
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from contract_document import (
    SPEC,
    GenerationError,
    Node,
    json_type,
    operations,
    parameters,
    response_headers,
)
from surface import PREFIX, class_name, surface

SETTINGS = "generator-config.yml"
GENERATED = "generated"
PACKAGE = "blink_oauth_api"
CONTRACT_TYPES = "contract.py"  # types that the generator leaves out, added to its package
SURFACE = "API.md"  # the generated package as text, for reviewers
PROVENANCE = "provenance.json"
BY_HAND = "README.md"  # the only file under generated/ that is not generated
TWO_COMMITS = "Make two commits: first the upgrade of the generator, then the contract."
EXIT_DONE, EXIT_DRIFT, EXIT_FAILED = 0, 1, 2

CONTRACT_TYPES_HEAD = f'''\
"""Paths, statuses, headers, members and limits of the contract, as types.

Generated from {SPEC} by tools/generation.py; do not edit. Code that repeats one of
these values refers to its type here, so that a type checker reports when the contract changes.
"""

from typing import Final, Literal, NotRequired, TypedDict
'''

Files = dict[str, bytes]
Difference = tuple[str, str, str]  # path, kind (missing, extra or changed), unified diff


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("command", choices=("generate", "drift"))
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], metavar="DIR")
    options = parser.parse_args(arguments)
    root: Path = options.root.resolve()
    try:
        with fresh_generation(root) as fresh:
            committed, made = read_files(root / GENERATED), read_files(fresh)
            differences = list(compare(committed, made))
            reason = reasons(committed.get(PROVENANCE), made[PROVENANCE])
            if options.command == "drift":
                return drift(differences, reason)
            generate(root / GENERATED, fresh)
    except GenerationError as error:
        print(f"Nothing was generated. {error}", file=sys.stderr)
        return EXIT_FAILED
    if TWO_COMMITS in reason:
        print(reason, file=sys.stderr)
    for path, kind, _ in differences:
        show(f"{kind:8} {GENERATED}/{path}")
    show(f"{GENERATED}/ is up to date. Review the diff and commit it with the contract.")
    return EXIT_DONE


def generate(target: Path, fresh: Path) -> None:
    """Replace generated/ by the new generation, except the file written by hand."""
    target.mkdir(exist_ok=True)
    # Delete everything first, so that no file remains that the contract no longer generates.
    for entry in target.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != BY_HAND:
            entry.unlink()
    shutil.copytree(fresh, target, dirs_exist_ok=True)


def drift(differences: list[Difference], reason: str) -> int:
    """Print every difference between generated/ and the new generation."""
    for path, kind, diff in differences:
        show(f"{kind:8} {GENERATED}/{path}\n{diff}")
    if not differences:
        show(f"{GENERATED}/ is exactly what the generator makes of {SPEC}.")
        return EXIT_DONE
    print(
        f"Drift: {len(differences)} file(s) under {GENERATED}/ are not what the generator makes of"
        f" {SPEC} with {SETTINGS}.\n{reason}\n"
        "Never edit them. Change the contract if need be, run `nox -s generate`, review the diff"
        " and commit both together.",
        file=sys.stderr,
    )
    return EXIT_DRIFT


def reasons(committed: bytes | None, fresh: bytes) -> str:
    """Return why generated/ differs, by the provenance of the committed files and of the new ones.

    Args:
        committed: The committed provenance.json; None if it is missing.
        fresh: The provenance.json of a new generation.
    """
    new = json.loads(fresh)
    try:
        old = json.loads(committed or b"")
        tools = [
            f"{tool} {old['made_with'][tool]}, now {version}"
            for tool, version in new["made_with"].items()
            if old["made_with"][tool] != version
        ]
        sources = [
            name
            for name, digest in new["made_from_sha256"].items()
            if old["made_from_sha256"][name] != digest
        ]
    except (ValueError, KeyError, TypeError):
        return f"{GENERATED}/{PROVENANCE} is missing or damaged, so the reason is unknown."
    changed = {SPEC: "The contract", SETTINGS: "The settings"}
    parts = [f"{changed[name]} changed since: {name}." for name in sources]
    if tools:
        parts.append(f"The generator or ruff is another version: {'; '.join(tools)}.")
    if tools and SPEC in sources:
        parts.append(TWO_COMMITS)
    return " ".join(parts) or (
        "Neither the contract nor the settings nor the generator changed since: a generated file"
        " was edited by hand, or tools/ writes another text."
    )


@contextmanager
def fresh_generation(root: Path) -> Iterator[Path]:
    """Generate into a temporary folder outside the tree, and yield the folder.

    Raises:
        GenerationError: If a setting is refused, or the generator reports an error or a warning.
    """
    settings = check_settings(root / SETTINGS)
    if not (root / SPEC).is_file():
        raise GenerationError(f"{SPEC} is missing.")
    with tempfile.TemporaryDirectory(prefix="blink-oauth-") as name:
        fresh = Path(name).resolve()
        if fresh.is_relative_to(root):
            raise GenerationError(f"Point TMPDIR at a folder outside {root}.")
        package = fresh / PACKAGE
        config = Config.from_sources(
            settings, MetaType.NONE, root / SPEC, "utf-8", overwrite=False, output_path=package
        )
        run_generator(config)
        # The generator runs first: its messages about a broken contract are clearer.
        contract: Node = YAML(typ="safe").load(root / SPEC)
        write(package / CONTRACT_TYPES, contract_types(contract))
        for hook in config.post_hooks:
            run_hook(hook, package)
        write(fresh / SURFACE, surface(contract, package))
        write(fresh / PROVENANCE, provenance(root))
        yield fresh


def check_settings(path: Path) -> ConfigFile:
    """Read the settings, and refuse unknown keys, which the generator would ignore silently.

    Raises:
        GenerationError: If the file cannot be read, or a key or a value is invalid.
    """
    try:
        return ConfigFile.model_validate(YAML(typ="safe").load(path), extra="forbid")
    except (OSError, YAMLError) as error:
        raise GenerationError(f"{path.name} cannot be read: {error}") from error
    except ValidationError as error:
        known = ", ".join(sorted(ConfigFile.model_fields))
        faults = "".join(
            f"\n  {'.'.join(map(str, fault['loc'])) or path.name}: {fault['msg']}"
            for fault in error.errors(include_input=False)
        )
        message = f"Correct {path.name}:{faults}\nKnown keys: {known}."
        raise GenerationError(message) from error


def run_generator(config: Config) -> None:
    """Run openapi-python-client without its post hooks, which run once all files are there.

    Raises:
        GenerationError: If it fails or warns: after a warning, an operation may be left out.
    """
    with redirect_stdout(StringIO()):  # where it is writing
        try:
            found = generate_client(config=evolve(config, post_hooks=[]))
        except Exception as error:
            message = f"Correct {SPEC}; the generator fails: {error!r}"
            raise GenerationError(message) from error
    if found:
        report = "\n".join(map(text_of, found))
        raise GenerationError(f"Correct {SPEC} or {SETTINGS}; the generator reports:\n{report}")


def text_of(error: GeneratorError) -> str:
    """Return an error of the generator with the part of the contract that it concerns."""
    data = error.data if isinstance(error, ParseError) else None
    part = data.model_dump_json(exclude_unset=True, by_alias=True) if data else None
    return "\n".join(filter(None, (error.header, error.detail, part)))


def run_hook(hook: str, package: Path) -> None:
    """Run a post hook on the package.

    Raises:
        GenerationError: If it fails or is not installed; the generator would skip it.
    """
    name, *arguments = shlex.split(hook)
    # `ruff` must be the pinned one, which is installed beside this Python.
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(name, path=search)
    if program is None:
        raise GenerationError(f"Correct {SETTINGS}: {name} is not in PATH.")
    command = [program, *arguments]
    result = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    if result.returncode:
        report = (result.stdout + result.stderr).strip()
        raise GenerationError(f"Correct {SPEC} or {SETTINGS}; {name} failed:\n{report}")


def contract_types(contract: Node) -> str:
    """Return the types that the generator leaves out.

    Raises:
        GenerationError: If the contract lacks a name that a type needs.
    """
    schemas = contract.get("components", {}).get("schemas", {}).items()
    lines = [CONTRACT_TYPES_HEAD]
    lines += [line for one in operations(contract) for line in operation_types(contract, *one)]
    lines += [members(contract, name, item) for name, item in schemas if "properties" in item]
    lines += [line for name, schema in schemas for line in limits(name, schema)]
    return "\n".join(lines)


def operation_types(contract: Node, path: str, method: str, operation: Node) -> Iterator[str]:
    """Yield the path constant and the types of statuses and headers of an operation.

    Raises:
        GenerationError: If the operation has no operationId, or a status is not a number.
    """
    place = f"{method.upper()} {path}"
    name = class_name(require(operation, "operationId", place))
    sent = {
        one["name"]: one for one in parameters(contract, path, operation) if one["in"] == "header"
    }
    received = list(response_headers(contract, operation).values())
    yield f"\n{constant(name)}_PATH: Final = {path!r}"
    yield f"{name}Status = Literal[{', '.join(statuses(operation, place))}]"
    yield typed_dict(contract, f"{name}RequestHeaders", [sent])
    yield typed_dict(contract, f"{name}ResponseHeaders", received)


def statuses(operation: Node, place: str) -> list[str]:
    """Return the statuses of an operation.

    Raises:
        GenerationError: If one is not a number, such as `default` or `5XX`.
    """
    for status in operation["responses"]:
        if not status.isdecimal():
            message = f"{place} documents {status}. Document each status by its number."
            raise GenerationError(f"Correct {SPEC}: {message}")
    return list(operation["responses"])


def members(contract: Node, name: str, schema: Node) -> str:
    """Return the TypedDict of the members of a schema."""
    required = schema.get("required", ())
    fields = {
        field: {"schema": value, "required": field in required}
        for field, value in schema["properties"].items()
    }
    return typed_dict(contract, f"{class_name(name)}Members", [fields])


def limits(name: str, schema: Node) -> Iterator[str]:
    """Yield the length limits of a schema and its properties."""
    for limit in ("minLength", "maxLength"):
        if limit in schema:
            yield f"{constant(f'{name}_{limit}')}: Final = {schema[limit]}"
    for field, value in schema.get("properties", {}).items():
        yield from limits(f"{name}_{field}", value)


def constant(name: str) -> str:
    """Return the name of a constant."""
    return PythonIdentifier(name, PREFIX).upper()


def typed_dict(contract: Node, name: str, variants: list[Node]) -> str:
    """Return a TypedDict with the keys of all variants.

    A key is optional unless every variant requires it. Its type is the union of their types.
    """
    types = {}
    for key in dict.fromkeys(key for one in variants for key in one):
        declared = [one[key] for one in variants if key in one]
        each = (json_type(contract, require(one, "schema", f"{key} of {name}")) for one in declared)
        type_ = " | ".join(dict.fromkeys(each))
        required = all(one.get(key, {}).get("required") for one in variants)
        types[key] = type_ if required else f"NotRequired[{type_}]"
    pairs = ", ".join(f"{key!r}: {type_}" for key, type_ in types.items())
    return f"{name} = TypedDict({name!r}, {{{pairs}}})"


def require(node: Node, key: str, place: str) -> Any:
    """Return a value that the types need, although the generator works without it.

    Raises:
        GenerationError: If the node lacks the key.
    """
    if key not in node:
        raise GenerationError(f"Correct {SPEC}: {place} has no {key}; {CONTRACT_TYPES} needs it.")
    return node[key]


def provenance(root: Path) -> str:
    """Return the versions and sources of the generated package as JSON, without times and paths."""
    tools = ("openapi-python-client", "ruff")
    record = {
        "made_with": {tool: version(tool) for tool in tools},
        "made_from_sha256": {
            name: hashlib.sha256((root / name).read_bytes()).hexdigest()
            for name in (SPEC, SETTINGS)
        },
    }
    return json.dumps(record, indent=2) + "\n"


def show(text: str) -> None:
    """Print a text, and nothing more once the reader has closed the output, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Later prints, and the flush when the interpreter exits, must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write(path: Path, text: str) -> None:
    """Write a text with the same bytes on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")


def read_files(folder: Path) -> Files:
    """Read every file below a folder, except bytecode and the file written by hand."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path != folder / BY_HAND
    }


def compare(committed: Files, fresh: Files) -> Iterator[Difference]:
    """Yield every difference."""
    for path in sorted(committed.keys() | fresh.keys()):
        before, after = committed.get(path), fresh.get(path)
        if before == after:
            continue
        kind = "extra" if after is None else "missing" if before is None else "changed"
        lines = difflib.unified_diff(
            (before or b"").decode(errors="replace").splitlines(keepends=True),
            (after or b"").decode(errors="replace").splitlines(keepends=True),
            f"committed/{path}",
            f"generated/{path}",
        )
        yield path, kind, "".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())

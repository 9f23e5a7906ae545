"""The boundaries between the modules, read from their imports."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import blink_oauth
import blink_oauth_api

WRAPPER = Path(blink_oauth.__file__).parent
GENERATED = Path(blink_oauth_api.__file__).parent

OUTSIDE_THE_CORE = ("sandbox", "pytest_plugin", "lifecycle", "storage", "otel", "cli")
SANDBOX, SQL, OTEL = "blink_oauth.sandbox", "blink_oauth.storage", "blink_oauth.otel"
CLI = "blink_oauth.cli"
AT_HOME = {
    "aiohttp": SANDBOX,
    "openapi_core": SANDBOX,
    "yaml": SANDBOX,
    "sqlalchemy": SQL,
    "psycopg": SQL,
    "opentelemetry": OTEL,
    "click": CLI,
    "rich": CLI,
    "platformdirs": CLI,
    "pytest": "blink_oauth.pytest_plugin",
}
EXTRAS = AT_HOME.keys()
MAX_LINES = 250
LONGER = {
    "errors.py": 350,  # one tree, one file
    "client.py": 350,  # the same docstrings twice, one set for each flavour
    "_failures.py": 350,  # what each error says
    "manager.py": 460,  # many public methods, the docstrings of some twice
    "banks.py": 275,  # one state machine
    "flights.py": 260,  # all that its one lock guards
}


def modules(root: Path) -> dict[str, Path]:
    """Return the modules below a package's folder by their dotted names."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Yield the full names of what a module imports, the names within modules too.

    Args:
        name: The module.
        path: Its file.
        lazy: Whether imports count that happen only when a function is called.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{source}.{alias.name}" for alias in node.names)
        if lazy or not is_lazy(node):
            waiting += ast.iter_child_nodes(node)


def is_lazy(node: ast.AST) -> bool:
    """Say whether the imports below a node do not happen when the module is loaded."""
    guard = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return guard or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def within(name: str, package: str) -> bool:
    """Say whether a module is a package or something in it."""
    return name == package or name.startswith(f"{package}.")


MODULES = modules(WRAPPER)
CORE = {
    name: path
    for name, path in MODULES.items()
    if not any(within(name, f"blink_oauth.{part}") for part in OUTSIDE_THE_CORE)
}
EACH = pytest.mark.parametrize("name", MODULES)
EACH_OF_THE_CORE = pytest.mark.parametrize("name", CORE)


def test_the_graph_is_read_at_all() -> None:
    assert {"blink_oauth", "blink_oauth.client", "blink_oauth.tls"} <= CORE.keys()
    client = set(imports("blink_oauth.client", CORE["blink_oauth.client"]))
    assert {"blink_oauth._gateway.Gateway", "datetime.datetime", "httpx"} <= client
    late = {one for name, path in CORE.items() for one in imports(name, path)}
    early = {one for name, path in CORE.items() for one in imports(name, path, lazy=False)}
    assert "cryptography.x509" in late - early


@EACH
def test_the_gateway_alone_imports_the_generated_package(name: str) -> None:
    used = {one for one in imports(name, MODULES[name]) if within(one, "blink_oauth_api")}
    assert bool(used) is (name == "blink_oauth._gateway")


@pytest.mark.parametrize("name", modules(GENERATED))
def test_the_generated_package_never_imports_the_wrapper(name: str) -> None:
    path = modules(GENERATED)[name]
    assert [one for one in imports(name, path) if within(one, "blink_oauth")] == []


@EACH
def test_nothing_imports_the_sandbox_but_itself_and_what_starts_it(name: str) -> None:
    starters = {"blink_oauth.pytest_plugin", "blink_oauth.cli.local"}
    if not within(name, "blink_oauth.sandbox") and name not in starters:
        used = imports(name, MODULES[name])
        assert [one for one in used if within(one, "blink_oauth.sandbox")] == []


@EACH_OF_THE_CORE
def test_the_core_knows_nothing_of_what_is_built_on_it(name: str) -> None:
    above = [f"blink_oauth.{part}" for part in OUTSIDE_THE_CORE]
    # The front door names the manager and the stores for type checkers only.
    used = imports(name, CORE[name], lazy=name != "blink_oauth")
    assert [one for one in used if any(within(one, part) for part in above)] == []


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "blink_oauth.storage")])
def test_a_store_knows_no_client_and_no_http(name: str) -> None:
    used = set(imports(name, MODULES[name]))
    assert {one for one in used if one.partition(".")[0] in {"httpx", "httpcore", "http"}} == set()
    ours = {one for one in used if within(one, "blink_oauth")}
    known = ("storage", "context", "errors", "headers", "tokens")
    assert {o for o in ours if not any(within(o, f"blink_oauth.{part}") for part in known)} == set()


@EACH
def test_nothing_below_the_lifecycle_imports_it(name: str) -> None:
    above = ("blink_oauth.lifecycle", "blink_oauth.cli", "blink_oauth.otel")
    if name != "blink_oauth" and not any(within(name, part) for part in above):
        used = imports(name, MODULES[name])
        assert [one for one in used if within(one, "blink_oauth.lifecycle")] == []


@EACH
def test_nothing_imports_the_command_but_itself(name: str) -> None:
    if not within(name, CLI):
        assert [one for one in imports(name, MODULES[name]) if within(one, CLI)] == []


@EACH
def test_an_extra_is_imported_only_where_it_is_at_home(name: str) -> None:
    for one in imports(name, MODULES[name]):
        home = AT_HOME.get(one.partition(".")[0])
        assert home is None or within(name, home), f"{name} imports {one}"


@EACH_OF_THE_CORE
def test_the_core_imports_nothing_of_the_extras(name: str) -> None:
    assert {one.partition(".")[0] for one in imports(name, CORE[name])} & EXTRAS == set()


@EACH_OF_THE_CORE
def test_the_core_imports_cryptography_only_when_a_certificate_is_checked(name: str) -> None:
    early = {one.partition(".")[0] for one in imports(name, CORE[name], lazy=False)}
    assert "cryptography" not in early


def loaded_by(statement: str) -> set[str]:
    """Return the names of all modules that a fresh interpreter holds after a statement."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {statement}; print(*sys.modules)"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


def test_importing_the_library_loads_no_extra_and_no_cryptography() -> None:
    # httpx loads its own command line where click and rich are installed.
    before = loaded_by("import attrs, httpx, httpcore")
    new = loaded_by("from blink_oauth import AsyncBlinkOAuth, BlinkOAuth") - before
    assert "blink_oauth._gateway" in new
    unwanted = EXTRAS | {"cryptography"}
    assert {name for name in new if name.partition(".")[0] in unwanted} == set()
    assert {name for name in new if within(name, "blink_oauth.sandbox")} == set()


def test_the_manager_and_a_store_in_memory_load_no_extra() -> None:
    before = loaded_by("import attrs, httpx, httpcore, concurrent.futures")
    new = (
        loaded_by(
            "from blink_oauth import TokenManager; from blink_oauth.storage import MemoryTokenStore"
        )
        - before
    )
    assert {"blink_oauth.lifecycle.manager", "blink_oauth.storage.memory"} <= new
    assert {name for name in new if name.partition(".")[0] in EXTRAS} == set()


HTTP_STACK = {"httpx", "httpcore", "blink_oauth_api", "blink_oauth.client", "http.client"}


def test_values_and_errors_do_not_load_the_http_stack() -> None:
    loaded = loaded_by("from blink_oauth import BlinkError, Grant, Settings, Token")
    assert "blink_oauth.tokens" in loaded
    assert (HTTP_STACK - {"http.client"}) & loaded == set()


def test_importing_the_library_alone_loads_nothing_else_of_it() -> None:
    loaded = {name for name in loaded_by("import blink_oauth") if within(name, "blink_oauth")}
    assert loaded == {"blink_oauth", "blink_oauth._version"}


@pytest.mark.parametrize("command", ["", "login", "token", "keep-alive", "doctor", "sandbox"])
def test_the_help_of_the_command_loads_no_database_and_no_http(command: str) -> None:
    statement = (
        "from blink_oauth.cli.main import command; "
        f"command.main({[*command.split(), '--help']!r}, 'blink-oauth', standalone_mode=False)"
    )
    # What measures the tests is in every process, with a database of its own.
    loaded = loaded_by(statement) - loaded_by("pass")
    assert "blink_oauth.cli.main" in loaded
    unwanted = HTTP_STACK | {"sqlalchemy", "sqlite3", "psycopg", "aiohttp", "cryptography", "rich"}
    assert unwanted & loaded == set()


@EACH
def test_no_module_is_named_for_nothing_in_particular(name: str) -> None:
    assert name.rpartition(".")[2].strip("_") not in {"utils", "util", "helpers", "common", "misc"}


@EACH
def test_a_module_is_short_enough_to_be_read_at_once(name: str) -> None:
    lines = len(MODULES[name].read_text("utf-8").splitlines())
    limit = LONGER.get(MODULES[name].name, MAX_LINES)
    assert lines <= limit, f"{name} has {lines} lines, at most {limit} are allowed"


def test_every_exception_from_the_length_is_still_needed() -> None:
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in MODULES.values()}
    assert {name for name in LONGER if lengths[name] <= MAX_LINES} == set()


@EACH
def test_a_function_fits_on_a_screen(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text("utf-8"))
    long = {
        node.name: body_lines(node)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and body_lines(node) > 40
    }
    assert long == {}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring."""
    first, *_ = function.body
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    text = (first.end_lineno or 0) - first.lineno + 1 if docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - text

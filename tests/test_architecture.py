"""The boundaries between the packages and their modules, checked on their imports."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType

import httpx
import pytest
from attrs import frozen

GENERATED = "blink_oauth_api"
MAY_IMPORT: Mapping[str, Collection[str]] = {
    GENERATED: {GENERATED},
    "blink_oauth": {"blink_oauth", GENERATED},
    "blink_oauth_keeper": {"blink_oauth", "blink_oauth_keeper"},
    "blink_oauth_testing": {"blink_oauth", "blink_oauth_keeper", "blink_oauth_testing"},
    "blink_oauth_cli": {
        *("blink_oauth", "blink_oauth_keeper", "blink_oauth_testing", "blink_oauth_cli"),
    },
}
"""Our packages, and the packages that each may import."""

ALWAYS_INSTALLED = {"anyio", "attrs", "cryptography", "httpcore", "httpx"}
EXTRA_LIBRARIES = {
    "aiohttp": "blink_oauth_testing.sandbox",
    "jsonschema": "blink_oauth_testing.sandbox",
    "jsonschema_path": "blink_oauth_testing.sandbox",
    "openapi_core": "blink_oauth_testing.sandbox",
    "werkzeug": "blink_oauth_testing.sandbox",
    "yaml": "blink_oauth_testing.sandbox",
    "pytest": "blink_oauth_testing.pytest_plugin",
    "sqlalchemy": "blink_oauth_keeper.store",
    "psycopg": "blink_oauth_keeper.store",
    "opentelemetry": "blink_oauth_keeper.otel",
    "prometheus_client": "blink_oauth_keeper.prometheus",
    "click": "blink_oauth_cli",
    "platformdirs": "blink_oauth_cli",
    "rich": "blink_oauth_cli",
}
"""The libraries that only an extra installs, and the only package that may import each."""

HTTP_STACK = {"httpx", "httpcore", "anyio", "h11", GENERATED}


@frozen
class Import:
    """A name that a module imports.

    Attributes:
        name: The full name: the module and, if one is imported from it, the object.
        is_eager: Whether it is imported when the module is loaded, not when a function is called.
        is_for_types: Whether it is imported for type checkers only.
    """

    name: str
    is_eager: bool = True
    is_for_types: bool = False


def imports_of(package: str, source: str) -> Iterator[Import]:
    """Yield the imports of a module: at its top, in functions and for type checkers.

    Args:
        package: The package that the relative imports are relative to.
        source: The source of the module.
    """
    pending: list[tuple[ast.AST, bool, bool]] = [(ast.parse(source), True, False)]
    while pending:
        node, eager, for_types = pending.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, eager, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield Import(f"{origin}.{alias.name}", eager, for_types)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += [(child, eager, True) for child in node.body]
            pending += [(child, eager, for_types) for child in node.orelse]
            continue
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            eager = False
        pending += [(child, eager, for_types) for child in ast.iter_child_nodes(node)]


def modules_of(package: str) -> dict[str, Path]:
    """Return the names and files of the modules of an installed package."""
    found = find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    root = Path(found.submodule_search_locations[0])
    names = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def package_of(name: str, path: Path) -> str:
    """Return the package that the relative imports of a module are relative to."""
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def top(name: str) -> str:
    """Return the top-level package of a name."""
    return name.partition(".")[0]


def within(name: str, package: str) -> bool:
    """Return whether a name is a package or inside it."""
    return name == package or name.startswith(f"{package}.")


def is_private(name: str) -> bool:
    """Return whether a name is private: a leading underscore, but not `_` or `__this__`."""
    is_special = name.startswith("__") and name.endswith("__")
    return name.startswith("_") and name != "_" and not is_special


MODULES = {name: path for package in MAY_IMPORT for name, path in modules_of(package).items()}
SOURCES = {name: path.read_text("utf-8") for name, path in MODULES.items()}
IMPORTS = {
    name: tuple(imports_of(package_of(name, path), SOURCES[name])) for name, path in MODULES.items()
}
HAND_WRITTEN = [name for name in MODULES if top(name) != GENERATED]


def test_every_kind_of_import_is_found() -> None:
    source = """
from __future__ import annotations
import a.b
from . import near
from ..far import Thing
if TYPE_CHECKING:
    from c import OnlyType
else:
    from d import OnlyValue
class Holder:
    import e
    def method(self):
        if True:
            from f import Late
if not TYPE_CHECKING:
    from g import Hidden
"""
    assert set(imports_of("ours.inner", source)) == {
        Import("__future__.annotations"),
        Import("a.b"),
        Import("ours.inner.near"),
        Import("ours.far.Thing"),
        Import("c.OnlyType", is_for_types=True),
        Import("d.OnlyValue"),
        Import("e"),
        Import("f.Late", is_eager=False),
        Import("g.Hidden"),
    }


def test_the_imports_of_all_packages_are_found() -> None:
    assert {top(name) for name in MODULES} == MAY_IMPORT.keys()
    assert Import("blink_oauth._api.Api") in IMPORTS["blink_oauth.client"]
    assert Import("blink_oauth.tokens.Token", is_for_types=True) in IMPORTS["blink_oauth.errors"]
    assert any(within(each.name, GENERATED) for each in IMPORTS["blink_oauth._api"])
    assert any(
        within(each.name, "blink_oauth_testing.sandbox")
        for each in IMPORTS["blink_oauth_cli.sandbox"]
    )


def imports_a_forbidden_package(module: str, imported: str) -> bool:
    """Return whether a package imports one that `MAY_IMPORT` does not allow."""
    return top(imported) in MAY_IMPORT and top(imported) not in MAY_IMPORT[top(module)]


def imports_generated_code_outside_api(module: str, imported: str) -> bool:
    """Return whether another module than `_api` imports the generated package."""
    outside = top(module) != GENERATED and module != "blink_oauth._api"
    return outside and within(imported, GENERATED)


def imports_a_private_name_of_another_package(module: str, imported: str) -> bool:
    """Return whether a private name of another package, ours or a library, is imported."""
    return top(module) != top(imported) and any(map(is_private, imported.split(".")))


def imports_the_testing_kit_outside_its_command(module: str, imported: str) -> bool:
    """Return whether a module of the command, except `sandbox`, imports the testing kit."""
    elsewhere = top(module) == "blink_oauth_cli" and module != "blink_oauth_cli.sandbox"
    return elsewhere and within(imported, "blink_oauth_testing")


def imports_an_extra_outside_its_package(module: str, imported: str) -> bool:
    """Return whether a library is undeclared, or of an extra and imported outside its package."""
    library = top(imported)
    if library in {*MAY_IMPORT, *ALWAYS_INSTALLED, *sys.stdlib_module_names}:
        return False
    return library not in EXTRA_LIBRARIES or not within(module, EXTRA_LIBRARIES[library])


def imports_a_client_in_a_store(module: str, imported: str) -> bool:
    """Return whether a store imports HTTP, or of the wrapper more than values and checks."""
    if not within(module, "blink_oauth_keeper.store"):
        return False
    names = ("arguments", "context", "errors", "headers", "texts", "tokens")
    values = [f"blink_oauth.{name}" for name in names]
    is_ours = within(imported, "blink_oauth")
    is_value = any(within(imported, value) for value in values)
    return top(imported) in {"httpx", "httpcore", "http"} or (is_ours and not is_value)


def imports_our_code_in_headers(module: str, imported: str) -> bool:
    """Return whether the module with the header names imports a module of ours."""
    return module == "blink_oauth.headers" and top(imported) in MAY_IMPORT


RULES: dict[Callable[[str, str], bool], list[tuple[str, str]]] = {
    imports_a_forbidden_package: [
        ("blink_oauth.client", "blink_oauth_keeper.TokenManager"),
        ("blink_oauth_keeper.manager", "blink_oauth_testing.sandbox"),
        ("blink_oauth_keeper.manager", f"{GENERATED}.models"),
        ("blink_oauth_testing.sandbox.server", "blink_oauth_cli"),
        (f"{GENERATED}.client", "blink_oauth.tokens"),
    ],
    imports_generated_code_outside_api: [("blink_oauth._wire", f"{GENERATED}.Client")],
    imports_a_private_name_of_another_package: [
        ("blink_oauth_keeper.auth", "blink_oauth._checks.sendable"),
        ("blink_oauth_keeper.auth", "blink_oauth.tokens._hide"),
        ("blink_oauth._wire", "httpcore._async.connection_pool.AsyncConnectionPool"),
        ("blink_oauth._wire", "httpx._client"),
    ],
    imports_the_testing_kit_outside_its_command: [
        ("blink_oauth_cli.login", "blink_oauth_testing.sandbox.page")
    ],
    imports_an_extra_outside_its_package: [
        ("blink_oauth_keeper.manager", "sqlalchemy.select"),
        ("blink_oauth_testing.store_contract.harness", "pytest"),
        ("blink_oauth_cli.main", "requests"),
    ],
    imports_a_client_in_a_store: [
        ("blink_oauth_keeper.store.sql", "blink_oauth.BlinkOAuth"),
        ("blink_oauth_keeper.store.sql", "blink_oauth.client.BlinkOAuth"),
        ("blink_oauth_keeper.store.memory", "httpx"),
    ],
    imports_our_code_in_headers: [("blink_oauth.headers", "blink_oauth.tokens.Token")],
}
"""The rules as predicates that are true of a forbidden import, with examples of such imports."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_import_breaks_a_rule(rule: Callable[[str, str], bool]) -> None:
    all_imports = [(name, each.name) for name, found in IMPORTS.items() for each in found]
    assert [f"{name} imports {each}" for name, each in all_imports if rule(name, each)] == []


@pytest.mark.parametrize(
    ("rule", "module", "imported"),
    [(rule, *example) for rule, examples in RULES.items() for example in examples],
)
def test_an_import_that_breaks_a_rule_is_found(
    rule: Callable[[str, str], bool], module: str, imported: str
) -> None:
    assert rule(module, imported)


def edges_of(imports: Mapping[str, Iterable[Import]], *, with_types: bool) -> dict[str, set[str]]:
    """Return the modules that each of the given modules imports."""

    def module_of(name: str) -> str:
        while name and name not in imports:
            name = name.rpartition(".")[0]
        return name

    return {
        name: {module_of(each.name) for each in found if with_types or not each.is_for_types}
        - {name, ""}
        for name, found in imports.items()
    }


def cycle_in(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the modules of one import cycle, or an empty list."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_cycle_is_found_also_within_functions_and_through_a_package() -> None:
    imports = {
        "p": [Import("p.a.Thing")],
        "p.a": [Import("p.b.help", is_eager=False), Import("sys")],
        "p.b": [Import("p.c", is_for_types=True)],
        "p.c": [Import("p.a")],
    }
    assert cycle_in(edges_of(imports, with_types=False)) == []
    assert set(cycle_in(edges_of(imports, with_types=True))) == {"p.a", "p.b", "p.c"}
    imports["p.b"] = [Import("p.Thing", is_eager=False)]
    assert set(cycle_in(edges_of(imports, with_types=False))) == {"p", "p.a", "p.b"}


def test_there_is_no_import_cycle_at_run_time() -> None:
    assert cycle_in(edges_of(IMPORTS, with_types=False)) == []


def test_no_module_is_imported_by_a_computed_name() -> None:
    by_name = ("import_module(", "__import__(", "importlib.import")
    assert [each for each in HAND_WRITTEN if any(word in SOURCES[each] for word in by_name)] == []


def reachable(edges: Mapping[str, Iterable[str]], start: str) -> set[str]:
    """Return the modules that a module imports, also indirectly, and the packages they are in."""
    found: set[str] = set()
    pending = [start]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += [*edges.get(name, ()), *filter(None, [name.rpartition(".")[0]])]
    return found


def test_import_statements_lead_from_the_command_to_every_module_that_it_uses() -> None:
    # A program that freezes the command packs what these statements name, not those for types.
    found = reachable(edges_of(IMPORTS, with_types=False), "blink_oauth_cli.__main__")
    needed = {"blink_oauth", "blink_oauth_cli", "blink_oauth_keeper", "blink_oauth_testing.sandbox"}
    modules = {name for name in MODULES if any(within(name, each) for each in needed)}
    assert modules - found == set()


# The annotations of `error.token` and `error.grant` need them.
TYPES_ONLY = {"blink_oauth.errors": ("blink_oauth.tokens", "blink_oauth.context")}
"""The only imports for type checkers that close a cycle."""


def test_two_imports_for_type_checkers_close_the_only_cycles() -> None:
    edges = edges_of(IMPORTS, with_types=True)
    for module, imported in TYPES_ONLY.items():
        for each in imported:
            assert cycle_in(edges) != []
            edges[module].remove(each)
    assert cycle_in(edges) == []


PUBLIC_BY_DOCUMENTATION = {
    "_exit",  # os._exit
    "_replace",  # of a named tuple, such as what urlsplit returns
}


def defined_in(tree: ast.AST) -> set[str]:
    """Return the names that code defines, including the attributes of `self`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if ast.unparse(node.value) in {"self", "cls"} else set()
    return found


def used_in(tree: ast.AST) -> set[str]:
    """Return the attributes that code uses, directly or with `getattr` or `attrgetter`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("attr", "getter")):
            texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
            found |= {text for text in texts if isinstance(text, str)}
    return found


def private_attributes_of_others(source: str) -> set[str]:
    """Return the private attributes that a module uses and does not define."""
    tree = ast.parse(source)
    private = set(filter(is_private, used_in(tree)))
    return private - defined_in(tree) - PUBLIC_BY_DOCUMENTATION


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_a_private_attribute_is_used_only_where_it_is_defined(name: str) -> None:
    assert private_attributes_of_others(SOURCES[name]) == set()


@pytest.mark.parametrize(
    "statement",
    ["client._transport", "del client._transport", "getattr(client, '_transport', None)"],
)
def test_a_private_attribute_of_another_class_is_found(statement: str) -> None:
    own = "class Own:\n def __init__(self):\n  self._one = 1\n def get(self): return self._one\n"
    assert private_attributes_of_others(own) == set()
    assert private_attributes_of_others(own + statement) == {"_transport"}


def names_in(code: CodeType) -> set[str]:
    """Return the names of attributes and globals that a function and its inner functions use."""
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*map(names_in, inner))


def private_names_of(cls: type) -> set[str]:
    """Return the private attributes that a class of a library has or uses, without its bases."""
    names = {*vars(cls), *vars(cls).get("__annotations__", ())}
    for value in vars(cls).values():
        for part in (value, *(getattr(value, name, None) for name in ("fget", "fset", "func"))):
            code = getattr(inspect.unwrap(part), "__code__", None)
            names |= names_in(code) if code else set()
    return set(filter(is_private, names))


def overridden_private(cls: type, packages: Collection[str] = MAY_IMPORT.keys()) -> set[str]:
    """Return the private attributes of base classes from libraries that a class overrides.

    Args:
        cls: The class.
        packages: The packages that count as ours.
    """
    ours = [each for each in cls.__mro__ if top(each.__module__) in packages]
    text = "\n".join(textwrap.dedent(inspect.getsource(each)) for each in ours)
    defined = defined_in(ast.parse(text))
    others = [each for each in cls.__mro__ if each not in ours]
    return {f"{each.__qualname__}.{n}" for each in others for n in private_names_of(each) & defined}


@pytest.mark.parametrize("name", [each for each in HAND_WRITTEN if top(each) != each])
def test_no_private_attribute_of_a_base_class_is_overridden(name: str) -> None:
    classes = [
        each for each in vars(importlib.import_module(name)).values() if inspect.isclass(each)
    ]
    ours = [cls for cls in classes if cls.__module__ == name]
    assert [overridden_private(cls) for cls in ours if overridden_private(cls)] == []


def test_an_overridden_private_attribute_of_a_base_class_is_found() -> None:
    class Ours(httpx.HTTPTransport):
        def __init__(self) -> None:
            super().__init__()
            self._own = 1
            self._pool = None  # type: ignore[assignment]

    assert overridden_private(Ours, {top(__name__)}) == {"HTTPTransport._pool"}


def loaded_by(statement: str) -> set[str]:
    """Return the names of all modules that a new interpreter has loaded after a statement."""
    code = f"import json, sys; {statement}; print(); print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        capture_output=True,
        text=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def always_loaded() -> set[str]:
    """Return the modules that every process loads; coverage, for example, loads sqlite3."""
    return loaded_by("pass")


def packages_of(names: Iterable[str]) -> set[str]:
    """Return the top-level packages of modules."""
    return set(map(top, names))


def test_the_modules_that_a_statement_loads_are_found(always_loaded: set[str]) -> None:
    loaded = loaded_by("import httpx, sqlalchemy; print('aiohttp')") - always_loaded
    assert {"httpx", "sqlalchemy"} <= packages_of(loaded) & {*HTTP_STACK, *EXTRA_LIBRARIES}
    assert "aiohttp" not in loaded


def test_importing_the_wrapper_loads_no_http_stack_and_no_other_package(
    always_loaded: set[str],
) -> None:
    loaded = loaded_by("import blink_oauth") - always_loaded
    assert {"blink_oauth.tokens", "blink_oauth.errors"} <= loaded
    unwanted = HTTP_STACK | EXTRA_LIBRARIES.keys() | {"cryptography"} | MAY_IMPORT.keys()
    assert packages_of(loaded) & unwanted == {"blink_oauth"}
    assert "blink_oauth.client" not in loaded


def test_the_clients_load_no_extra_no_other_package_and_no_cryptography() -> None:
    # httpx loads its command line, and with it click and rich, where they are installed.
    before = loaded_by("import attrs, httpx, httpcore")
    loaded = loaded_by("from blink_oauth import AsyncBlinkOAuth, BlinkOAuth") - before
    assert "blink_oauth._api" in loaded
    unwanted = EXTRA_LIBRARIES.keys() | {"cryptography"} | MAY_IMPORT.keys()
    assert packages_of(loaded) & unwanted == {"blink_oauth", GENERATED}


def test_importing_the_keeper_loads_no_http_stack_and_no_extra(always_loaded: set[str]) -> None:
    statement = "from blink_oauth_keeper import MemoryTokenStore, TokenManager"
    loaded = loaded_by(statement) - always_loaded
    assert {"blink_oauth_keeper.manager", "blink_oauth_keeper.store.memory"} <= loaded
    unwanted = HTTP_STACK | EXTRA_LIBRARIES.keys() | {"cryptography"} | MAY_IMPORT.keys()
    assert packages_of(loaded) & unwanted == {"blink_oauth", "blink_oauth_keeper"}
    assert "blink_oauth.client" not in loaded


def test_a_manager_with_a_store_in_memory_loads_no_extra() -> None:
    before = loaded_by("import attrs, httpx, httpcore")
    statement = (
        "from blink_oauth import BlinkOAuth, Settings; "
        "from blink_oauth_keeper import MemoryTokenStore, TokenManager; "
        "settings = Settings(base_url='http://127.0.0.1:9', client_id='CIDX0000000002', "
        "user_agent='acme-books/3.2', allow_plain_http=True); "
        "TokenManager(BlinkOAuth(settings), MemoryTokenStore()).close()"
    )
    loaded = loaded_by(statement) - before
    assert {"blink_oauth_keeper.manager", "blink_oauth.client"} <= loaded
    assert (
        packages_of(loaded) & (EXTRA_LIBRARIES.keys() | {"cryptography", "blink_oauth_testing"})
        == set()
    )


def test_importing_the_testing_kit_loads_none_of_its_modules(always_loaded: set[str]) -> None:
    loaded = loaded_by("import blink_oauth_testing") - always_loaded
    ours = {name for name in loaded if top(name) in MAY_IMPORT}
    assert ours == {"blink_oauth_testing"}
    assert packages_of(loaded) & (HTTP_STACK | EXTRA_LIBRARIES.keys()) == set()


def command_names() -> list[str]:
    """Return the words of the command and of all subcommands; none for the command itself."""
    from click import Context, Group

    from blink_oauth_cli.main import command

    def below(group: Group, prefix: str) -> Iterator[str]:
        context = Context(group)
        for name in group.list_commands(context):
            words = f"{prefix} {name}".strip()
            yield words
            each = group.get_command(context, name)
            if isinstance(each, Group):
                yield from below(each, words)

    return ["", *below(command, "")]


def test_the_subcommands_are_found() -> None:
    assert {"", "login", "keep-alive", "keys", "keys seal"} <= set(command_names())


@pytest.mark.parametrize("words", command_names())
def test_the_help_of_a_command_loads_no_http_and_no_database(
    words: str, always_loaded: set[str]
) -> None:
    arguments = [*words.split(), "--help"]
    run = f"from blink_oauth_cli.main import run; assert run({arguments!r}) == 0"
    loaded = loaded_by(run) - always_loaded
    assert "blink_oauth_cli.main" in loaded
    libraries = (
        HTTP_STACK | EXTRA_LIBRARIES.keys() - {"click"} | {"cryptography", "sqlite3", "http"}
    )
    assert packages_of(loaded) & (libraries | {"blink_oauth_testing"}) == set()


# ---- what the documents say of the structure

PROJECT = Path(__file__).parents[1]
FILE = re.compile(r"\b[\w/]+\.py\b")
IDENTIFIER = re.compile(r"\b(?:[a-z]+_[a-z_]+|[A-Z][a-z]+[A-Z]\w+)\b")
SIZE = re.compile(r"^\| [\w ]+ \| `(\w+)` \| .* \| ([\d,]+) \|$", re.MULTILINE)


def sources() -> list[Path]:
    """Return all Python files of the project, except those of environments."""
    packages = ("generated", "wrapper", "keeper", "cli", "testing")
    folders = (*packages, "tests", "tools", "demo", "examples", "benchmarks")
    return [path for folder in folders for path in (PROJECT / folder).rglob("*.py")]


@pytest.mark.parametrize(
    "page", ["SECURITY.md", "docs/architecture.md", "docs/decisions.md", "docs/lifecycle.md"]
)
def test_a_page_names_only_files_and_identifiers_that_exist(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    paths = sources()
    files = {f"/{path.relative_to(PROJECT).as_posix()}" for path in paths}
    missing = {
        name for name in FILE.findall(text) if not any(f.endswith(f"/{name}") for f in files)
    }
    # The table of departures names what was planned and not built.
    built = text.partition("## Departures")[0]
    words = {word for path in paths for word in re.findall(r"\w+", path.read_text("utf-8"))}
    names = {*words, *(part for file in files for part in file.removesuffix(".py").split("/"))}
    assert missing | (set(IDENTIFIER.findall(built)) - names) == set()


def test_each_promise_of_the_security_page_names_its_test() -> None:
    text = (PROJECT / "SECURITY.md").read_text(encoding="utf-8")
    _, _, table = text.partition("| --- | --- |\n")
    rows = table.partition("\n\n")[0].splitlines()
    assert len(rows) > 20
    assert [row for row in rows if not re.search(r"\| `test_\w+`[^|]*\|$", row)] == []


def test_the_readme_tells_the_size_of_each_package() -> None:
    told = dict(SIZE.findall((PROJECT / "README.md").read_text(encoding="utf-8")))
    assert told.keys() == MAY_IMPORT.keys() - {GENERATED}
    for package, size in told.items():
        files = modules_of(package).values()
        lines = sum(len(path.read_text("utf-8").splitlines()) for path in files)
        assert int(size.replace(",", "")) == pytest.approx(lines, rel=0.1), package

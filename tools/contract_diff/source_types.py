"""Python sources, parsed once, and what their annotations tell about the values of expressions.

Nothing is imported or run. A value has a class if an annotation, a constructor, `isinstance` or a
class pattern tells it; of any other value nothing is known. A name that is bound or narrowed
several times in a scope has all these types anywhere in it.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

__all__ = ["Binding", "Function", "Scope", "Sources", "Type", "elements", "flat", "is_property"]

COLLECTIONS = frozenset(
    {"list", "set", "frozenset", "Sequence", "Iterable", "Iterator", "Collection"}
    | {"dict", "Mapping", "MutableMapping", "AsyncIterator", "AsyncIterable", "deque", "Set"}
)
TRANSPARENT = frozenset(
    {"Final", "ClassVar", "Annotated", "Required", "NotRequired", "Awaitable", "Optional", "Union"}
)
SAME_ELEMENTS = frozenset({"sorted", "list", "tuple", "set", "frozenset", "reversed", "iter"})
ONE_ELEMENT = frozenset({"next", "min", "max"})
ENUMS = frozenset({"Enum", "StrEnum", "IntEnum"})

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Load = ast.Name | ast.Attribute


@frozen
class Type:
    """What is known about a value.

    Attributes:
        kind: `module`, `class`, `function`, `instance`, `callable`, `tuple`, `many` or `literal`;
            `generated` for a name of the generated package, and `typed` for a value of it.
        name: The full name of the module, class or function; of a literal, that of the constant,
            alias or enumeration that it comes from.
        items: The types of the elements, or of what a call returns; of a mapping, those of its
            values and of its keys.
        values: The values of a literal, as texts.
    """

    kind: str
    name: str = ""
    items: tuple[tuple[Type, ...], ...] = ()
    values: frozenset[str] = frozenset()


Types = tuple[Type, ...]


@frozen(eq=False)
class Binding:
    """What a name is bound to.

    Attributes:
        how: `import`, `definition`, `self`, `annotation`, `instance`, `value`, `element`,
            `entered` or `unknown`.
        to: The node, or the full name of an import, or the class of `self`.
        position: The position in the value, if that is unpacked.
    """

    how: str
    to: Any
    position: int | None = None


@frozen(eq=False)
class Scope:
    """A module, class or function, and what its names are bound to.

    Attributes:
        file: The file.
        module: The module.
        name: The names of the classes and functions, as in `Class.method`.
        node: The module, class or function.
        parent: The scope around it.
        names: The bindings of each name.
    """

    file: str
    module: str
    name: str
    node: ast.AST
    parent: Scope | None
    names: dict[str, list[Binding]] = field(factory=lambda: defaultdict(list))

    @property
    def full_name(self) -> str:
        """The name with its module."""
        return f"{self.module}.{self.name}".rstrip(".")

    def bound(self, name: str, how: str) -> list[Any]:
        """Return what a name is bound to in this way."""
        return [one.to for one in self.names.get(name, ()) if one.how == how]


class Sources:
    """The sources below some folders of a root.

    Args:
        root: The root.
        folders: The folders, each of which contains packages.
        generated: The generated package, of which only the names are known.
    """

    def __init__(self, root: Path, folders: Iterable[str], generated: str) -> None:
        self._generated = generated
        self._inner: dict[ast.AST, Scope] = {}
        self._types: dict[ast.AST, Types] = {}
        self._annotated: dict[ast.AST, list[Type]] = {}
        self._spellings: dict[str, set[str]] = defaultdict(set)
        self.modules: dict[str, Scope] = {}
        self.scopes: dict[ast.AST, Scope] = {}
        self.parents: dict[ast.AST, ast.AST] = {}
        self.loads: dict[str, list[Load]] = defaultdict(list)
        self.calls: list[ast.Call] = []
        self.keywords: dict[str, list[ast.Call]] = defaultdict(list)
        for folder in folders:
            for path in sorted((root / folder).rglob("*.py")):
                name = ".".join(path.relative_to(root / folder).with_suffix("").parts)
                tree = ast.parse(path.read_bytes())
                file, module = path.relative_to(root).as_posix(), name.removesuffix(".__init__")
                self.modules[module] = self._inner[tree] = Scope(file, module, "", tree, None)
                self._read(tree, self.modules[module])

    # ---- what the names are bound to

    def _read(self, node: ast.AST, scope: Scope) -> None:
        for child in ast.iter_child_nodes(node):
            self.parents[child], self.scopes[child] = node, scope
            self._bind(child, scope)
            self._read(child, self._inner.get(child, scope))

    @singledispatchmethod
    def _bind(self, node: ast.AST, scope: Scope) -> None:
        """Record what a node binds in its scope."""

    @_bind.register(ast.FunctionDef)
    @_bind.register(ast.AsyncFunctionDef)
    @_bind.register(ast.Lambda)
    def _(self, node: Function, scope: Scope) -> None:
        inner = self._define(node, getattr(node, "name", "<lambda>"), scope)
        for position, one in enumerate([*node.args.posonlyargs, *node.args.args]):
            is_self = position == 0 and isinstance(scope.node, ast.ClassDef)
            inner.names[one.arg].append(Binding("self", scope) if is_self else _parameter(one))
        for one in node.args.kwonlyargs:
            inner.names[one.arg].append(_parameter(one))

    @_bind.register
    def _(self, node: ast.ClassDef, scope: Scope) -> None:
        self._define(node, node.name, scope)

    def _define(self, node: ast.AST, name: str, scope: Scope) -> Scope:
        scope.names[name].append(Binding("definition", node))
        full = f"{scope.name}.{name}".lstrip(".")
        self._inner[node] = Scope(scope.file, scope.module, full, node, scope)
        return self._inner[node]

    @_bind.register
    def _(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            scope.names[name].append(Binding("import", alias.name if alias.asname else name))

    @_bind.register
    def _(self, node: ast.ImportFrom, scope: Scope) -> None:
        is_package = scope.file.endswith("/__init__.py")
        parts = scope.module.split(".")
        above = parts[: len(parts) - node.level + is_package] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            name = alias.asname or alias.name
            scope.names[name].append(Binding("import", f"{base}.{alias.name}"))
            self._spellings[alias.name].add(name)

    @_bind.register
    def _(self, node: ast.Assign, scope: Scope) -> None:
        for target in node.targets:
            self._assign(target, "value", node.value, scope)

    @_bind.register
    def _(self, node: ast.AnnAssign, scope: Scope) -> None:
        is_final = ast.unparse(node.annotation).rpartition(".")[2] == "Final"
        if not is_final:
            self._assign(node.target, "annotation", node.annotation, scope)
        # The elements of a display are known better than by their annotation.
        if node.value is not None and (is_final or isinstance(node.value, (ast.Tuple, ast.List))):
            self._assign(node.target, "value", node.value, scope)

    @_bind.register
    def _(self, node: ast.NamedExpr, scope: Scope) -> None:
        self._assign(node.target, "value", node.value, scope)

    @_bind.register(ast.For)
    @_bind.register(ast.AsyncFor)
    @_bind.register(ast.comprehension)
    def _(self, node: ast.For | ast.AsyncFor | ast.comprehension, scope: Scope) -> None:
        self._assign(node.target, "element", node.iter, scope)

    @_bind.register
    def _(self, node: ast.withitem, scope: Scope) -> None:
        if node.optional_vars is not None:
            self._assign(node.optional_vars, "entered", node.context_expr, scope)

    @_bind.register
    def _(self, node: ast.ExceptHandler, scope: Scope) -> None:
        if node.name and node.type:
            scope.names[node.name].append(Binding("instance", node.type))

    @_bind.register
    def _(self, node: ast.Match, scope: Scope) -> None:
        for case in node.cases:
            pattern = case.pattern
            if isinstance(pattern, ast.MatchAs) and pattern.pattern is not None:
                pattern = pattern.pattern
            each = pattern.patterns if isinstance(pattern, ast.MatchOr) else [pattern]
            for one in each:
                if isinstance(one, ast.MatchClass) and isinstance(node.subject, ast.Name):
                    scope.names[node.subject.id].append(Binding("instance", one.cls))

    @_bind.register
    def _(self, node: ast.MatchAs, scope: Scope) -> None:
        if node.name and isinstance(node.pattern, ast.MatchClass):
            scope.names[node.name].append(Binding("instance", node.pattern.cls))

    @_bind.register
    def _(self, node: ast.Call, scope: Scope) -> None:
        self.calls.append(node)
        for keyword in node.keywords:
            self.keywords[keyword.arg or ""].append(node)
        match node:
            case ast.Call(func=ast.Name(id="isinstance"), args=[ast.Name(id=name), classes]):
                scope.names[name].append(Binding("instance", classes))

    @_bind.register
    def _(self, node: ast.Name, scope: Scope) -> None:
        if isinstance(node.ctx, ast.Load):
            self.loads[node.id].append(node)

    @_bind.register
    def _(self, node: ast.Attribute, scope: Scope) -> None:
        if isinstance(node.ctx, ast.Load):
            self.loads[node.attr].append(node)

    def _assign(self, target: ast.expr, how: str, value: ast.expr, scope: Scope) -> None:
        match target:
            case ast.Name(id=name):
                scope.names[name].append(Binding(how, value))
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if scope.parent:
                scope.parent.names[f"self.{name}"].append(Binding(how, value))
            case ast.Tuple(elts=targets):
                is_pair = isinstance(value, ast.Tuple) and len(value.elts) == len(targets)
                for position, one in enumerate(targets):
                    if is_pair and isinstance(value, ast.Tuple):
                        self._assign(one, how, value.elts[position], scope)
                    elif isinstance(one, ast.Name):
                        scope.names[one.id].append(Binding(how, value, position))

    # ---- the types of expressions

    def types(self, node: ast.AST) -> Types:
        """Return the types that the value of an expression may have; none if it is not known."""
        if node not in self._types:
            self._types[node] = ()  # A name that depends on itself gets no type from itself.
            self._types[node] = tuple(dict.fromkeys(self._infer(node)))
        return self._types[node]

    def _all(self, nodes: Iterable[ast.AST | None]) -> Iterator[Type]:
        return (one for node in nodes if node is not None for one in self.types(node))

    @singledispatchmethod
    def _infer(self, node: ast.AST) -> Iterable[Type]:
        return ()

    @_infer.register
    def _(self, node: ast.Constant) -> Iterable[Type]:
        if isinstance(node.value, (str, int)) and not isinstance(node.value, bool):
            yield Type("literal", values=frozenset({str(node.value)}))

    @_infer.register
    def _(self, node: ast.Name) -> Iterable[Type]:
        at = self._binding_scope(node.id, self.scopes[node])
        return self._named(node.id, at) if at else ()

    @_infer.register
    def _(self, node: ast.Attribute) -> Iterable[Type]:
        return (one for base in self.types(node.value) for one in self.member(base, node.attr)[1])

    @_infer.register(ast.Await)
    @_infer.register(ast.Starred)
    @_infer.register(ast.NamedExpr)
    def _(self, node: ast.Await | ast.Starred | ast.NamedExpr) -> Iterable[Type]:
        return self.types(node.value)

    @_infer.register
    def _(self, node: ast.IfExp) -> Iterable[Type]:
        return self._all([node.body, node.orelse])

    @_infer.register
    def _(self, node: ast.BoolOp) -> Iterable[Type]:
        return self._all(node.values)

    @_infer.register
    def _(self, node: ast.Tuple) -> Iterable[Type]:
        return [Type("tuple", items=tuple(map(self.types, node.elts)))]

    @_infer.register(ast.List)
    @_infer.register(ast.Set)
    def _(self, node: ast.List | ast.Set) -> Iterable[Type]:
        return [_many(self._all(node.elts))]

    @_infer.register
    def _(self, node: ast.Dict) -> Iterable[Type]:
        return [_many(self._all(node.values), self._all(node.keys))]

    @_infer.register(ast.ListComp)
    @_infer.register(ast.SetComp)
    @_infer.register(ast.GeneratorExp)
    def _(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Iterable[Type]:
        return [_many(self.types(node.elt))]

    @_infer.register
    def _(self, node: ast.DictComp) -> Iterable[Type]:
        return [_many(self.types(node.value), self.types(node.key))]

    @_infer.register
    def _(self, node: ast.Subscript) -> Iterable[Type]:
        if isinstance(node.slice, ast.Slice):
            return self.types(node.value)
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        position = index if isinstance(index, int) else None
        return [t for one in self.types(node.value) for t in _at(one, position)]

    @_infer.register
    def _(self, node: ast.Call) -> Iterable[Type]:
        name = ast.unparse(node.func).rpartition(".")[2]
        first = list(self._all(node.args[:1]))
        if name == "super":
            yield from self._super(self.scopes[node])
        elif name in {"evolve", "replace"} or name in SAME_ELEMENTS:
            yield from first
        elif name in ONE_ELEMENT:
            yield from elements(first)
        elif name == "cast" and len(node.args) == 2:
            yield from self.annotated(node.args[0])
        for one in self._all([node.func]):
            yield from self._returned(one)
        if isinstance(node.func, ast.Attribute):
            for one in self.types(node.func.value):
                yield from _from_mapping(one, name)

    def _returned(self, called: Type) -> Iterable[Type]:
        """Return the types of what a call returns."""
        if called.kind == "class":
            return [Type("instance", called.name)]
        if called.kind == "generated":
            return [evolve(called, kind="typed")]
        if called.kind == "callable":
            return called.items[0]
        scope = self.scope_of(called.name) if called.kind == "function" else None
        return self.annotated(getattr(scope.node, "returns", None)) if scope else ()

    def _super(self, scope: Scope) -> Iterable[Type]:
        at: Scope | None = scope
        while at is not None and not isinstance(at.node, ast.ClassDef):
            at = at.parent
        bases = at.node.bases if at is not None and isinstance(at.node, ast.ClassDef) else []
        return [_instance(one) for one in self._all(bases) if one.kind == "class"]

    def _named(self, name: str, scope: Scope) -> Iterator[Type]:
        for binding in scope.names.get(name, ()):
            types = self._bound(binding)
            if binding.position is not None:
                types = [one for each in types for one in _at(each, binding.position)]
            for one in types:
                # A literal remembers the constant that spells it.
                is_constant = one.kind == "literal" and not one.name and scope.parent is None
                yield evolve(one, name=f"{scope.full_name}.{name}") if is_constant else one

    def _bound(self, binding: Binding) -> Iterable[Type]:
        to: Any = binding.to
        types: Iterable[Type] = ()
        match binding.how:
            case "import":
                types = self._imported(to)
            case "definition":
                kind = "class" if isinstance(to, ast.ClassDef) else "function"
                types = [Type(kind, self._inner[to].full_name)]
            case "self":
                types = [Type("instance", to.full_name)]
            case "annotation" | "instance":
                types = self.annotated(to)
            case "value":
                types = self.types(to)
            case "element":
                types = elements(self.types(to))
            case "entered":
                types = [one for manager in self.types(to) for one in self._entered(manager)]
        return types

    def _entered(self, manager: Type) -> Iterable[Type]:
        """Return the types that `with` gives for a context manager or a generator function."""
        methods = [t for n in ("__enter__", "__aenter__") for t in self.member(manager, n)[1]]
        if methods:
            return [one for method in methods for one in self._returned(method)] or [manager]
        return elements([manager])

    def _imported(self, full: str) -> Iterable[Type]:
        if f"{full}.".startswith(f"{self._generated}."):
            return [Type("generated", full)]
        if full in self.modules:
            return [Type("module", full)]
        module, _, name = full.rpartition(".")
        return self._named(name, self.modules[module]) if module in self.modules else ()

    def _binding_scope(self, name: str, scope: Scope) -> Scope | None:
        at: Scope | None = scope
        # Functions do not see the names of the class around them.
        while at and (
            name not in at.names or (at is not scope and isinstance(at.node, ast.ClassDef))
        ):
            at = at.parent
        return at

    # ---- names, classes and annotations

    def references(self, full: str) -> Iterator[Load]:
        """Yield the expressions that are a variable of a module, except in annotations."""
        short = full.rpartition(".")[2]
        for name in sorted({short} | self._spellings[short]):
            for node in self.loads[name]:
                if self.full_name(node) == full and not self._is_annotation(node):
                    yield node

    def full_name(self, node: ast.AST) -> str:
        """Return the full name of the variable of a module that an expression is, or nothing."""
        if isinstance(node, ast.Attribute):
            modules = [one.name for one in self.types(node.value) if one.kind == "module"]
            return self._origin(f"{modules[0]}.{node.attr}") if modules else ""
        if not isinstance(node, ast.Name):
            return ""
        scope = self._binding_scope(node.id, self.scopes[node])
        if scope is None or scope.parent is None:
            return self._origin(f"{scope.module}.{node.id}") if scope else ""
        imported = scope.bound(node.id, "import")
        return self._origin(imported[0]) if imported else ""

    def _origin(self, full: str) -> str:
        """Follow the imports of a name to the module that defines it."""
        module, _, name = full.rpartition(".")
        imported = self.modules[module].bound(name, "import") if module in self.modules else []
        return self._origin(imported[0]) if imported and imported[0] != full else full

    def _is_annotation(self, node: ast.AST) -> bool:
        parent = self.parents[node]
        while isinstance(parent, ast.expr):
            node, parent = parent, self.parents[parent]
        return any(getattr(parent, name, None) is node for name in ("annotation", "returns"))

    def annotated(self, node: ast.AST | None) -> list[Type]:
        """Return the types of the values that an annotation allows."""
        if node is None:
            return []
        if node not in self._annotated:
            self._annotated[node] = []
            self._annotated[node] = list(dict.fromkeys(self._allowed(node)))
        return self._annotated[node]

    def _allowed(self, node: ast.AST) -> list[Type]:
        match node:
            case ast.Constant(value=str(text)):
                parsed = ast.Expression(ast.parse(text, mode="eval").body)
                self.scopes[parsed], self.parents[parsed] = self.scopes[node], node
                self._read(parsed, self.scopes[node])
                return self.annotated(parsed.body)
            case ast.BinOp(left=left, right=right):
                return [*self.annotated(left), *self.annotated(right)]
            case ast.Tuple(elts=parts):
                return [one for part in parts for one in self.annotated(part)]
            case ast.Subscript():
                return self._generic(node)
            case ast.Name() | ast.Attribute():
                types = [t for t in self.types(node) if t.kind in {"class", "generated"}]
                return [*map(_instance, types), *self._alias(node)]
        return []

    def _alias(self, node: ast.AST) -> Iterator[Type]:
        full = self.full_name(node)
        module, _, name = full.rpartition(".")
        values = self.modules[module].bound(name, "value") if module in self.modules else []
        for value in values:
            for one in self.annotated(value):
                yield evolve(one, name=full) if one.kind == "literal" else one

    def _generic(self, node: ast.Subscript) -> list[Type]:
        name = ast.unparse(node.value).rpartition(".")[2]
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            values = {str(part.value) for part in parts if isinstance(part, ast.Constant)}
            return [Type("literal", values=frozenset(values))]
        each = [tuple(self.annotated(part)) for part in parts]
        every = [one for types in each for one in types]
        if name == "type":
            return [evolve(one, kind="class") for one in every if one.kind == "instance"]
        if name in TRANSPARENT:
            return every
        is_open = isinstance(parts[-1], ast.Constant)
        kinds = dict.fromkeys(COLLECTIONS, "many") | {"Callable": "callable"}
        kinds["tuple"] = "many" if is_open else "tuple"
        items = each if name == "tuple" else each[:2][::-1] if name in COLLECTIONS else each[-1:]
        return (
            [Type(kinds[name], items=tuple(items))] if name in kinds else self.annotated(node.value)
        )

    def scope_of(self, full: str) -> Scope | None:
        """Return the scope of a class or function, or None if it is not in the sources."""
        module, _, name = full.rpartition(".")
        outer = self.modules.get(module) or (self.scope_of(module) if module else None)
        nodes = outer.bound(name, "definition") if outer else []
        return self._inner[nodes[-1]] if nodes else None

    def bases(self, full: str) -> Iterator[Scope]:
        """Yield a class and its bases, as far as they are in the sources."""
        scope = self.scope_of(full)
        if scope is not None and isinstance(scope.node, ast.ClassDef):
            yield scope
            for base in self._all(scope.node.bases):
                if base.kind == "class" and base.name != full:
                    yield from self.bases(base.name)

    def subclasses(self, full: str) -> Iterator[Scope]:
        """Yield the classes that have a base."""
        for scope in self._inner.values():
            is_class = isinstance(scope.node, ast.ClassDef)
            if is_class and any(one.full_name == full for one in self.bases(scope.full_name)):
                yield scope

    def enum_values(self, full: str) -> dict[str, str]:
        """Return the values of an enumeration as texts, by member; nothing for other classes."""
        scope = self.scope_of(full)
        bases = scope.node.bases if scope and isinstance(scope.node, ast.ClassDef) else []
        if scope is None or not any(ast.unparse(b).rpartition(".")[2] in ENUMS for b in bases):
            return {}
        return {
            name: str(value.value)
            for name in scope.names
            for value in scope.bound(name, "value")
            if isinstance(value, ast.Constant)
        }

    def member(self, type_: Type, name: str) -> tuple[str, Types]:
        """Return the class that defines an attribute of a value, and the types of the attribute."""
        if type_.kind in {"generated", "module"}:
            return "", tuple(self._imported(f"{type_.name}.{name}"))
        if type_.kind not in {"instance", "class"}:
            return "", ()
        values = self.enum_values(type_.name) if type_.kind == "instance" else {}
        if values and name == "value":
            return "", (Type("literal", type_.name, values=frozenset(values.values())),)
        for scope in self.bases(type_.name):
            found = [*scope.names.get(name, ()), *scope.names.get(f"self.{name}", ())]
            if found:
                return scope.full_name, tuple(
                    t for one in found for t in self._attribute(scope, one)
                )
        return "", ()

    def _attribute(self, scope: Scope, binding: Binding) -> Iterable[Type]:
        if binding.how == "definition" and is_property(binding.to):
            return self.annotated(binding.to.returns)
        if binding.how == "value" and self.enum_values(scope.full_name):
            return [Type("instance", scope.full_name)]
        return self._bound(binding)


def elements(types: Iterable[Type]) -> list[Type]:
    """Return the types of the elements of values."""
    return [one for type_ in types for one in _at(type_, None)]


def flat(types: Iterable[Type]) -> Iterator[Type]:
    """Yield types and those of their elements, at any depth."""
    for one in types:
        yield one
        yield from flat(elements([one]))


def is_property(node: ast.AST) -> bool:
    """Return whether a function is a property."""
    names = {ast.unparse(one).rpartition(".")[2] for one in getattr(node, "decorator_list", ())}
    return bool(names & {"property", "cached_property"})


def _at(type_: Type, position: int | None) -> Iterable[Type]:
    """Return the types of an element; of any if the position is not known."""
    if type_.kind == "many":
        return type_.items[0] if type_.items else ()
    if type_.kind != "tuple":
        return ()
    if position is None:
        return [one for types in type_.items for one in types]
    return type_.items[position] if position < len(type_.items) else ()


def _parameter(node: ast.arg) -> Binding:
    return Binding("annotation", node.annotation) if node.annotation else Binding("unknown", node)


def _instance(type_: Type) -> Type:
    return evolve(type_, kind="typed" if type_.kind == "generated" else "instance")


def _many(values: Iterable[Type], keys: Iterable[Type] = ()) -> Type:
    return Type("many", items=(tuple(dict.fromkeys(values)), tuple(dict.fromkeys(keys))))


def _from_mapping(type_: Type, method: str) -> Iterable[Type]:
    """Return the types of what a method of a mapping returns."""
    if type_.kind != "many":
        return ()
    if method == "values":
        return [type_]
    if method == "items" and len(type_.items) == 2:
        return [_many([Type("tuple", items=type_.items[::-1])])]
    return type_.items[0] if method in {"get", "pop", "setdefault"} else ()

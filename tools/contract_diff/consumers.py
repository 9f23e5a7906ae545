"""Find the code that consumes a place of the contract, from the types and without importing it.

A direct consumer uses a generated name itself: it is a line where mypy complains if the name is
removed, renamed or changed. It imports the name, looks a constant up in a TypedDict, calls a
generated function or constructor (also with `**` of a TypedDict), or passes a value on between a
generated enumeration and one of ours, in both directions.

The other consumers depend on the place through a name of ours:

* a constant, or a member of a Literal or enumeration, that a direct consumer uses for it;
* a constant of a module that is made of such a constant;
* an attribute that is filled, by a keyword of a constructor, with what was looked up with such a
  name: the value is followed through expressions, local variables and returned values;
* a property that returns such an attribute;
* the member of an enumeration of ours, if the type of such an attribute has the value;
* what is looked up in the parsed contract by constant keys.

The code that reads the contract from its file depends on all of it; no place names it.

Limits. An attribute counts only if the class of its object is known, see `source_types`. A value is
followed until it fills an attribute: what is computed from an attribute is not a consumer, nor is
code that a value merely decides about. `getattr` is not followed, nor a name that is spelled as a
plain text, unless the text is an argument for one of our Literals. The types of the responses of
the generated functions are not followed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, product
from pathlib import Path

from attrs import field, frozen

from contract_document import Node, Place

from .source_types import Scope, Sources, Type, flat, is_property
from .symbols import Key, Made, Symbol, made_names, names_of, snake

GENERATED = "blink_oauth_api"
FOLDERS = ("wrapper", "keeper", "testing", "cli")
CONTRACT = "openapi.yaml"
UNSET = f"{GENERATED}.types.UNSET"  # the value of an argument that is left out

Attribute = tuple[str, str]
"""The full name of a class and the name of an attribute; of a module and one of its constants."""


@frozen(order=True)
class Consumer:
    """A line that consumes a place of the contract.

    Attributes:
        file: The file, from the root.
        line: The number of the line.
        scope: The class and function around it; empty at the level of the module.
        via: Our name through which it depends; empty if it uses the generated name itself.
    """

    file: str
    line: int
    scope: str
    via: str


@frozen
class Use:
    """A line that uses generated names.

    Attributes:
        at: The line.
        needs: The names without which it is an error, each with our name that spells it, if any.
        values: The types of values for generated names, whose own type must allow them.
        owner: A generated name of which every member that demands it must be among `given`.
        demand: How the key of such a member ends: `required`, or nothing for an enumeration.
        given: The members that the line covers.
        via: Our name that `given` or `values` come from, if any.
    """

    at: Consumer
    needs: dict[Key, str] = field(factory=dict)
    values: Mapping[Key, Iterable[Type]] = field(factory=dict)
    owner: Key = ()
    demand: Key = ()
    given: frozenset[str] = frozenset()
    via: str = ""

    def concerned(self, keys: frozenset[Key], made: dict[Key, Made]) -> dict[Key, str]:
        """Return which of these names the line depends on, and our names for them."""
        found = dict(self.needs)
        for key, types in self.values.items():
            found |= {one: self.via for one in keys if one[:-1] == key and one[-1][:1] == "="}
            enumeration = made[key].values if key in made else None
            if enumeration is not None:
                found |= {(*enumeration, v): one.name for one in types for v in one.values}
        length = len(self.owner)
        for key in keys if self.owner else ():
            is_demanded = key[:length] == self.owner and key[length + 1 :] == self.demand
            if is_demanded and len(key) > length and key[length] not in self.given:
                found[key] = self.via
        return {key: via for key, via in found.items() if key in keys and not _within(key, keys)}


def _within(key: Key, keys: frozenset[Key]) -> bool:
    """Return whether a whole class, function or enumeration is among the names, with its members.

    The line with its name is the error then, and not those that use its members.
    """
    return any(key[:length] in keys for length in range(2, len(key) - (key[-1] == "required")))


class Code:
    """The hand-written code below a root.

    Args:
        root: The folder with `wrapper/`, `keeper/`, `testing/` and `cli/`.
    """

    def __init__(self, root: Path) -> None:
        self._sources = Sources(root, FOLDERS, GENERATED)
        self._contracts: list[tuple[Node, dict[Key, Made]]] = []
        self._found: dict[tuple[str, str, frozenset[str]], list[Consumer]] = {}

    def symbols(self, contract: Node, place: Place, other: Node | None = None) -> list[Symbol]:
        """Return the names that the generator makes of a place of a contract.

        Args:
            contract: The contract in which the place exists.
            place: The place.
            other: The other version of the contract, if only the names count that it lacks.
        """
        made = self._made(contract)
        keys = names_of(made, place) - (self._made(other).keys() if other else set())
        symbols = {made[key].symbol for key in keys}
        return sorted(filter(None, symbols), key=lambda symbol: (symbol.file, symbol.name))

    def consumers(self, contract: Node, place: Place, other: Node | None = None) -> list[Consumer]:
        """Return the lines that consume a place, those that use its generated names first.

        Args:
            contract: The contract in which the place exists.
            place: The place.
            other: The other version of the contract, if only the names count that it lacks.
        """
        made = self._made(contract)
        keys = names_of(made, place) - (self._made(other).keys() if other else set())
        if not keys:
            return []
        direct = {use.at for use in self._uses if use.concerned(keys, made)}
        # A header has the values of its enumeration, so code that reads the header consumes them.
        enumerations = {key[:2] for key in keys if len(key) == 3}
        wider = keys | {key for key, one in made.items() if one.values in enumerations}
        values = frozenset(key[-1] for key in keys)
        names = {
            (via, key[-1])
            for use in self._uses
            for key, via in use.concerned(wider, made).items()
            if via
        }
        lines = {(one.file, one.line) for one in direct}
        others: set[Consumer] = set()
        for name, member in names:
            if (name, member, values) not in self._found:
                self._found[name, member, values] = list(self._through(name, member, values))
            others.update(self._found[name, member, values])
        others.update(at for keys, at in self._lookups_in_the_file if keys[: len(place)] == place)
        return sorted(direct) + sorted(one for one in others if (one.file, one.line) not in lines)

    def readers(self) -> list[Consumer]:
        """Return the functions that name the file of the contract: they depend on all of it."""
        found: dict[Scope, ast.AST] = {}
        for node, scope in self._sources.scopes.items():
            if isinstance(node, ast.Constant) and node.value == CONTRACT and scope.parent:
                found.setdefault(scope, node)
        return [self._at(node, CONTRACT) for node in found.values()]

    def _made(self, contract: Node) -> dict[Key, Made]:
        """Return the names of a contract, computed once for each."""
        for known, made in self._contracts:
            if known is contract:
                return made
        self._contracts.append((contract, made_names(contract)))
        return self._contracts[-1][1]

    def _at(self, node: ast.AST, via: str = "") -> Consumer:
        scope = self._sources.scopes[node]
        assert isinstance(node, (ast.expr, ast.stmt))
        name = ".".join(part for part in scope.name.split(".") if part != "<lambda>")
        return Consumer(scope.file, node.lineno, name, via)

    # ---- the lines that use generated names

    @cached_property
    def _uses(self) -> list[Use]:
        sources = self._sources
        importing = {
            scope.module
            for scope in sources.modules.values()
            for name in scope.names
            for full in scope.bound(name, "import")
            if full.partition(".")[0] == GENERATED
        }
        nodes = [node for node, scope in sources.scopes.items() if scope.module in importing]
        return [use for node in nodes for use in self._uses_in(node)]

    def _uses_in(self, node: ast.AST) -> Iterator[Use]:
        types = self._sources.types
        match node:
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] == GENERATED:
                names = [_key(f"{module}.{alias.name}") for alias in node.names]
                yield Use(self._at(node), dict.fromkeys(names, ""))
            case ast.Attribute():
                yield from self._uses_of_attribute(node)
            case ast.Subscript(value=base, slice=index):
                owners = [_key(one.name) for one in types(base) if one.kind == "typed"]
                for owner, one in product(owners, types(index)):
                    yield Use(self._at(node), {(*owner, v): one.name for v in one.values})
            case ast.Call(func=called):
                for one in [one for one in types(called) if one.kind == "generated"]:
                    yield from self._uses_of_call(node, _key(one.name))
            case ast.Return(value=ast.expr() as value):
                returns = getattr(self._sources.scopes[node].node, "returns", None)
                yield from self._passed_on(value, self._sources.annotated(returns), types(value))
            case ast.AnnAssign(value=ast.expr() as value, annotation=annotation):
                yield from self._passed_on(value, self._sources.annotated(annotation), types(value))

    def _uses_of_attribute(self, node: ast.Attribute) -> Iterator[Use]:
        """Yield the use of a name of a generated module, and of ours that it is compared with."""
        types, around = self._sources.types, self._sources.parents[node]
        compared = [around.left, *around.comparators] if isinstance(around, ast.Compare) else []
        via = next((one.name for other in compared for one in types(other) if one.name), "")
        for base in types(node.value):
            if base.kind in {"generated", "typed"}:
                key = (*_key(base.name), node.attr)
                via = via if via.partition(".")[0] != GENERATED else ""
                yield Use(self._at(node), {key: via}, {key: ()}, via=via)

    def _uses_of_call(self, node: ast.Call, owner: Key) -> Iterator[Use]:
        given: set[str] = set()
        for keyword in node.keywords:
            names = [keyword.arg] if keyword.arg else self._keys_of(keyword.value)
            types = self._sources.types(keyword.value) if keyword.arg else ()
            values = {(*owner, name): types for name in names}
            is_optional = any(one.name == UNSET for one in types)
            needs = {(*owner, name, "required"): "" for name in names if is_optional}
            yield Use(self._at(keyword.value if keyword.arg else node), needs, values)
            given.update(names)
        yield Use(self._at(node), {(*owner, name): "" for name in given})
        if not node.args:
            yield Use(self._at(node), owner=owner, demand=("required",), given=frozenset(given))

    def _keys_of(self, node: ast.expr) -> list[str]:
        """Return the keys of a value whose class is a TypedDict of ours."""
        return [
            name
            for one in self._sources.types(node)
            if one.kind == "instance"
            for scope in self._sources.bases(one.name)
            for name in scope.names
            if scope.bound(name, "annotation")
        ]

    def _passed_on(
        self, node: ast.expr, targets: Iterable[Type], sources: Iterable[Type]
    ) -> Iterator[Use]:
        """Yield what is needed so that values of one type are values of another."""
        targets = list(targets)
        known = [one for one in targets if one.kind == "literal"]
        covered = frozenset(value for one in known for value in one.values)
        for source in sources:
            if source.kind == "typed" and known:
                via = known[0].name
                yield Use(self._at(node), owner=_key(source.name), given=covered, via=via)
            for target in targets if len(targets) == 1 else ():
                if source.kind == "literal" and target.kind == "typed":
                    key = _key(target.name)
                    yield Use(self._at(node), {(*key, v): source.name for v in source.values})
                if source.kind == target.kind == "tuple":
                    for pair in zip(target.items, source.items, strict=False):
                        yield from self._passed_on(node, *pair)

    # ---- what depends on a name of ours

    def _through(self, full: str, member: str, values: frozenset[str]) -> Iterator[Consumer]:
        """Yield the lines that depend on a constant, or on a member of a Literal or enumeration.

        Args:
            full: The full name of the constant, Literal or enumeration.
            member: The value of the member.
            values: The names and values of the place.
        """
        if self._sources.enum_values(full):
            yield from self._members(full, frozenset({member}))
            return
        module, _, short = full.rpartition(".")
        scope = self._sources.modules[module]
        found: list[ast.AST] = []
        for value in scope.bound(short, "value"):
            yield self._at(self._sources.parents[value], short)
            if isinstance(value, ast.Subscript):
                found += self._lookups(full, member)
        constants = list(self._sources.references(full))
        filled = Followed(self._sources, found, member).attributes if found else set()
        filled |= Followed(self._sources, constants, member).attributes
        yield from (self._at(node, short) for node in [*found, *constants])
        for owner, name in filled:
            if owner in self._sources.modules:
                yield from self._constant(f"{owner}.{name}", set())
            else:
                yield from self._attribute(owner, name, values)

    def _constant(self, full: str, seen: set[str]) -> Iterator[Consumer]:
        """Yield the lines that use a constant, and those that use a constant made of it."""
        seen.add(full)
        nodes = list(self._sources.references(full))
        yield from (self._at(node, full.rpartition(".")[2]) for node in nodes)
        for owner, name in Followed(self._sources, nodes, "").attributes:
            if owner in self._sources.modules and f"{owner}.{name}" not in seen:
                yield from self._constant(f"{owner}.{name}", seen)

    def _lookups(self, full: str, member: str) -> list[ast.AST]:
        """Return what gives a member of a Literal to a parameter or a name of that type."""
        return [node for node, name, values in self._typed if name == full and member in values]

    @cached_property
    def _typed(self) -> list[tuple[ast.AST, str, frozenset[str]]]:
        """The calls and constants with values for a Literal of ours: its name and the values."""
        sources = self._sources
        arguments = (
            (call, annotation, value)
            for call in sources.calls
            for one in sources.types(call.func)
            if one.kind == "function"
            for value, annotation in _arguments(call, sources.scope_of(one.name))
        )
        constants = (
            (value, annotation, value)
            for scope in sources.modules.values()
            for name in scope.names
            for annotation in scope.bound(name, "annotation")
            for value in scope.bound(name, "value")
        )
        return [
            (node, target.name, one.values)
            for node, annotation, value in chain(arguments, constants)
            for target in flat(sources.annotated(annotation))
            if target.kind == "literal" and target.name
            for one in flat(sources.types(value))
        ]

    def _members(self, full: str, values: frozenset[str]) -> Iterator[Consumer]:
        """Yield the lines that name a member of an enumeration of ours with one of the values."""
        scope = self._sources.scope_of(full)
        for member, value in self._sources.enum_values(full).items():
            if scope is None or value not in values:
                continue
            via = f"{scope.name}.{member}"
            yield from (self._at(node, via) for node in scope.bound(member, "value"))
            for node in self._sources.loads[member]:
                bases = self._sources.types(node.value) if isinstance(node, ast.Attribute) else ()
                if Type("class", full) in bases:
                    yield self._at(node, via)

    def _attribute(self, owner: str, name: str, values: frozenset[str]) -> Iterator[Consumer]:
        """Yield the lines that fill or read an attribute, or a property that returns it."""
        sources = self._sources
        scope = sources.scope_of(owner)
        via = f"{scope.name if scope else owner}.{name}"
        for call in sources.keywords[name]:
            if (owner, name) in filled_by(sources, call, name):
                yield self._at(call, via)
        for node in sources.loads[name]:
            bases = sources.types(node.value) if isinstance(node, ast.Attribute) else ()
            if not any(sources.member(b, name)[0] == owner for b in bases if b.kind == "instance"):
                continue
            yield self._at(node, via)
            around = sources.scopes[node]
            if is_property(around.node) and around.parent and self._is_returned(node):
                yield from self._attribute(
                    around.parent.full_name, around.name.rpartition(".")[2], values
                )
        for one in sources.member(Type("instance", owner), name)[1]:
            yield from self._members(one.name, values) if one.kind == "instance" else ()

    def _is_returned(self, node: ast.AST) -> bool:
        while isinstance(node, ast.expr):
            node = self._sources.parents[node]
        return isinstance(node, ast.Return)

    @cached_property
    def _lookups_in_the_file(self) -> list[tuple[Place, Consumer]]:
        """The lookups of places in the parsed contract: the keys, from the top of the document."""
        chains = ((node, _constant_keys(node)) for node in self._sources.scopes)
        return [(keys, self._at(node, CONTRACT)) for node, keys in chains if keys[:1] == ("paths",)]


class Followed:
    """Follows the values of expressions until they fill attributes.

    Args:
        sources: The sources.
        nodes: The expressions.
        key: The key under which the value is kept in a mapping until a key is seen.
    """

    def __init__(self, sources: Sources, nodes: Iterable[ast.AST], key: str) -> None:
        self._sources, self._first = sources, set(nodes)
        self.attributes: set[Attribute] = set()
        pending, seen = [(node, key) for node in self._first], set[ast.AST]()
        while pending:
            node, key = pending.pop()
            if node not in seen:
                seen.add(node)
                pending += self._next(node, sources.parents[node], key)

    def _next(self, node: ast.AST, parent: ast.AST, key: str) -> Iterator[tuple[ast.AST, str]]:
        """Yield the expressions whose value depends on that of a node in its parent."""
        match parent:
            case ast.keyword(arg=name):
                call = self._sources.parents[parent]
                assert isinstance(call, ast.Call)
                filled = set(filled_by(self._sources, call, name or key))
                self.attributes |= filled
                if not filled and not self._has_attributes(call):
                    yield call, key
            case ast.Call() if node is not parent.func and self._has_attributes(parent):
                pass
            case ast.Subscript() if node is parent.slice and node not in self._first:
                pass  # What is looked up by the value is not the value.
            case ast.Dict() | ast.DictComp():
                yield from self._in_mapping(node, parent, key)
            case ast.Return() | ast.Yield() | ast.YieldFrom():
                yield from ((call, key) for call in self._calls_of(self._sources.scopes[parent]))
            case ast.Tuple(elts=values) if targets := self._unpacked(parent):
                position = [one is node for one in values].index(True)
                yield from self._variables(targets[position], key)
            case ast.expr() if not isinstance(parent, ast.Lambda):
                yield parent, key
        yield from self._assigned(node, parent, key)

    def _assigned(self, node: ast.AST, parent: ast.AST, key: str) -> Iterator[tuple[ast.AST, str]]:
        """Yield the variables that an assignment or a loop gives a value."""
        match parent:
            case ast.NamedExpr(target=target) | ast.AnnAssign(target=target):
                yield from self._variables(target, key)
            case ast.For(target=target, iter=values) | ast.AsyncFor(target=target, iter=values):
                yield from self._variables(target, key) if node is values else ()
            case ast.comprehension(target=target, iter=values) if node is values:
                yield from self._variables(target, key, self._sources.parents[parent])
            case ast.Assign(targets=targets):
                for target in targets:
                    yield from self._variables(target, key)

    def _in_mapping(
        self, node: ast.AST, parent: ast.Dict | ast.DictComp, key: str
    ) -> Iterator[tuple[ast.AST, str]]:
        if isinstance(parent, ast.DictComp):
            if node is not parent.key:
                yield parent, key
        elif node in parent.values:
            position = [one is node for one in parent.values].index(True)
            own = parent.keys[position]
            yield parent, str(own.value) if isinstance(own, ast.Constant) else key

    def _unpacked(self, node: ast.Tuple) -> list[ast.expr]:
        """Return the targets of the elements if a tuple is unpacked at once."""
        match self._sources.parents[node]:
            case ast.Assign(targets=[ast.Tuple(elts=targets)]) if len(targets) == len(node.elts):
                return targets
        return []

    def _variables(
        self, target: ast.expr, key: str, within: ast.AST | None = None
    ) -> Iterator[tuple[ast.AST, str]]:
        """Yield the expressions that are a local variable; note a constant of a module."""
        scope = self._sources.scopes[target]
        for name in [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]:
            if scope.parent is None and within is None:
                self.attributes.add((scope.module, name))
                continue
            region = set(ast.walk(within or scope.node))
            yield from ((one, key) for one in self._sources.loads[name] if one in region)

    def _calls_of(self, scope: Scope) -> Iterator[ast.AST]:
        """Yield the calls of a function."""
        for node in self._sources.loads[scope.name.rpartition(".")[2]]:
            call = self._sources.parents[node]
            is_called = isinstance(call, ast.Call) and call.func is node
            if is_called and Type("function", scope.full_name) in self._sources.types(node):
                yield call

    def _has_attributes(self, call: ast.Call) -> bool:
        """Return whether a call returns a value of ours, whose attributes are followed instead."""
        return any(
            scope.bound(name, "annotation")
            for one in self._sources.types(call)
            if one.kind == "instance"
            for scope in self._sources.bases(one.name)
            for name in scope.names
        )


def filled_by(sources: Sources, call: ast.Call, name: str) -> Iterator[Attribute]:
    """Yield the attributes that a keyword of a constructor, or of `evolve`, fills.

    If the class has no such attribute, its subclasses are meant: a decision chose one of them.
    """
    types = [one for one in sources.types(call.func) if one.kind == "class"]
    called = ast.unparse(call.func).rpartition(".")[2]
    changed = call.args[0] if called == "evolve" and call.args else None
    if isinstance(call.func, ast.Attribute) and called == "__attrs_init__":
        changed = call.func.value
    if changed is not None:
        types += [one for one in sources.types(changed) if one.kind == "instance"]
    for one in types:
        owner, _ = sources.member(Type("instance", one.name), name)
        subclasses = [] if owner else sources.subclasses(one.name)
        yield from [(owner, name)] if owner else []
        yield from ((scope.full_name, name) for scope in subclasses if name in scope.names)


def _constant_keys(node: ast.AST) -> Place:
    """Return the constants by which an expression looks something up in nested mappings."""
    match node:
        case ast.Subscript(value=value, slice=ast.Constant(value=str(key))):
            return (*_constant_keys(value), key)
    return ()


def _key(full: str) -> Key:
    """Return the key of a generated name from its full name."""
    parts = full.split(".")[1:]
    if parts[:1] == ["models"] and len(parts) == 2 and parts[1][:1].isupper():
        parts.insert(1, snake(parts[1]))
    is_nested = parts[:1] in (["models"], ["api"]) and len(parts) > 1
    return (".".join(parts[:2]), *parts[2:]) if is_nested else tuple(parts)


def _arguments(call: ast.Call, scope: Scope | None) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """Yield the arguments of a call with the annotations of their parameters."""
    function = scope.node if scope else None
    if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    parameters = function.args
    positional = [one for one in parameters.args if one.arg not in {"self", "cls"}]
    for value, one in zip(call.args, positional, strict=False):
        yield value, one.annotation
    named = {one.arg: one.annotation for one in (*positional, *parameters.kwonlyargs)}
    for keyword in call.keywords:
        if keyword.arg in named:
            yield keyword.value, named[keyword.arg]

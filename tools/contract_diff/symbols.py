"""The names that the generator makes of each place of the contract, by the contract alone.

A place is the path of keys in the YAML document. An element of a list is named by its value, a
parameter also by its header or by the last segment of its reference; positions work, too.

The spelling follows the generator (`openapi_python_client.strings`) and tools/generation.py, which
need not be installed. A test compares all names with the committed code.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Iterator

from attrs import frozen

from contract_document import Node, Place, operations, steps

PACKAGE = "generated/blink_oauth_api"
FUNCTIONS = ("sync_detailed", "asyncio_detailed", "sync", "asyncio")
RESERVED = (set(dir(builtins)) | {"self", "true", "false", "datetime"}) - {"id"}

Key = tuple[str, ...]
"""A generated name: the module in the package, the name in it, and a member of that.

A third level marks what a member requires: `required`, or its type or value after an `=`.
"""


@frozen
class Symbol:
    """A generated name.

    Attributes:
        file: Its file.
        name: The name as one would write it in Python.
    """

    file: str
    name: str


@frozen
class Made:
    """A generated name and the places that it is made of.

    Attributes:
        key: The name.
        symbol: The name for a person; None for what a member requires.
        variants: The places of each of its origins. A header is made of every response that has it.
        values: The enumeration that is its type, or None.
    """

    key: Key
    symbol: Symbol | None
    variants: tuple[frozenset[Place], ...]
    values: Key | None = None


def words(text: str) -> list[str]:
    """Split a name into words, as the generator does."""
    text = re.sub(r"[^\w. -]", "", text)
    if any(letter.isupper() for letter in text):
        text = " ".join(re.split("([A-Z]?[a-z]+)", text))
    return re.findall(r"[^. _-]+", text)


def snake(text: str) -> str:
    """Return a name in snake case."""
    return "_".join(words(text)).lower()


def pascal(text: str) -> str:
    """Return the name of a class."""
    return "".join(word if word.isupper() else word.capitalize() for word in words(text))


def identifier(text: str) -> str:
    """Return the name of an attribute or parameter."""
    name = snake(text)
    return f"{name}_" if name in RESERVED or keyword.iskeyword(name) else name


def made_names(contract: Node) -> dict[Key, Made]:
    """Return everything that is generated from a contract, by key."""
    made: dict[Key, Made] = {}
    schemas = contract.get("components", {}).get("schemas", {})
    calls = (_operation(contract, *one) for one in operations(contract))
    models = (_schema(contract, name, schema) for name, schema in schemas.items())
    for source in (*calls, *models):
        for one in source:
            known = made.get(one.key)
            variants = (*known.variants, *one.variants) if known else one.variants
            made[one.key] = Made(one.key, one.symbol, variants, one.values)
    return made


def names_of(made: dict[Key, Made], place: Place) -> frozenset[Key]:
    """Return the keys of a place: what it is the origin of, otherwise what its element is.

    A name with several origins belongs to each of them, but not to what contains only some of them.
    """
    exact = {
        key
        for key, one in made.items()
        if any(place in origins for origins in one.variants)
        or all(any(p[: len(place)] == place for p in origins) for origins in one.variants)
    }
    shorter = (place[:length] for length in range(len(place) - 1, 1, -1))
    element: set[Key] = next(
        (
            found
            for part in shorter
            if (found := {k for k, one in made.items() if any(part in o for o in one.variants)})
        ),
        set(),
    )
    return frozenset(exact or element)


def _operation(contract: Node, path: str, method: str, operation: Node) -> Iterator[Made]:
    at = ("paths", path, method)
    operation_id = operation.get("operationId", "")
    module, prefix = snake(operation_id), pascal(operation_id)
    package = f"api.{snake((operation.get('tags') or ['default'])[0])}"
    own = {at, (*at, "operationId")}
    tag = {(*at, "tags"), *((*at, "tags", t) for t in operation.get("tags", ())[:1])}
    yield _made((package, module), f"{package.replace('.', '/')}/{module}.py", module, own | tag)
    for name in (f"{module.upper()}_PATH", f"{prefix}Status"):
        yield _contract((name,), name, own)
    for name in (f"{prefix}RequestHeaders", f"{prefix}ResponseHeaders"):
        yield _contract((name,), name, own)
    path_name = f"{module.upper()}_PATH"
    yield _contract((path_name, f"={path}"), path_name, {("paths", path)})
    for place, parameter in _parameters(contract, path, method, operation):
        yield from _parameter(contract, (package, module), prefix, place, parameter)
    for status, node in operation.get("responses", {}).items():
        at_status: Place = (*at, "responses", status)
        places, response = _resolve(contract, node, at_status)
        name = f"{prefix}Status[{status}]"
        yield _contract((f"{prefix}Status", status), name, places)
        for header, value in response.get("headers", {}).items():
            at_header: list[Place] = [(*place, "headers", header) for place in places]
            found, resolved = _resolve(contract, value, *at_header)
            type_, _, values = _type(contract, resolved.get("schema", {}), *found)
            key, places_of = f"{prefix}ResponseHeaders", found | type_
            yield _contract((key, header), f'{key}["{header}"]', places_of, values)


def _parameters(
    contract: Node, path: str, method: str, operation: Node
) -> Iterator[tuple[set[Place], Node]]:
    holders = (contract["paths"][path], ("paths", path)), (operation, ("paths", path, method))
    for holder, at in holders:
        for position, node in enumerate(holder.get("parameters", ())):
            places, parameter = _resolve(contract, node)
            names = {
                str(position),
                parameter.get("name", ""),
                node.get("$ref", "").rpartition("/")[2],
            }
            yield places | {(*at, "parameters", name) for name in names if name}, parameter


def _parameter(
    contract: Node, module: Key, prefix: str, places: set[Place], parameter: Node
) -> Iterator[Made]:
    header = parameter.get("name", "")
    name = identifier(header)
    schema = parameter.get("schema", {})
    type_places, type_, values = _type(contract, schema, *((*p, "schema") for p in places))
    key = f"{prefix}RequestHeaders"
    if parameter.get("in") == "header":
        yield _contract((key, header), f'{key}["{header}"]', places | type_places)
    for function in FUNCTIONS:
        at = (*module, function, name)
        file = f"{module[0].replace('.', '/')}/{module[1]}.py"
        text = f"{module[1]}.{function}({name})" if function.endswith("_detailed") else None
        yield _made(at, file, text, places | type_places, values)
        yield _made((*at, f"={type_}"), file, None, _under(type_places, "type"))
        if parameter.get("required"):
            yield _made((*at, "required"), file, None, places | _under(places, "required"))


def _schema(contract: Node, name: str, schema: Node) -> Iterator[Made]:
    at, class_ = ("components", "schemas", name), pascal(name)
    module, file = f"models.{snake(name)}", f"models/{snake(name)}.py"
    if "enum" in schema:
        yield _made((module, class_), file, class_, {at})
        for position, value in enumerate(schema["enum"]):
            places = {(*at, "enum", str(position)), (*at, "enum", str(value))}
            symbol = f"{class_}[{value!r}]".replace("'", '"')
            yield _made((module, class_, str(value)), file, symbol, places)
    if "properties" in schema:
        yield _made((module, class_), file, class_, {at})
        yield _contract((f"{class_}Members",), f"{class_}Members", {at})
    for field, value in schema.get("properties", {}).items():
        own = (*at, "properties", field)
        required: set[Place] = {(*at, "required"), (*at, "required", field)}
        field_places, type_, values = _type(contract, value, own)
        key = (module, class_, identifier(field))
        yield _contract((f"{class_}Members", field), f'{class_}Members["{field}"]', {own})
        yield _made(key, file, f"{class_}.{key[2]}", {own}, values)
        yield _made((*key, f"={type_}"), file, None, _under(field_places, "type"))
        if field in schema.get("required", ()):
            required.add((*at, "required", str(schema["required"].index(field))))
            yield _made((*key, "required"), file, f"{class_}.{key[2]}", {own} | required)
    yield from _limits(name, schema, at)


def _limits(name: str, schema: Node, at: Place) -> Iterator[Made]:
    for limit in ("minLength", "maxLength"):
        if limit in schema:
            constant = snake(f"{name}_{limit}").upper()
            yield _contract((constant,), constant, {(*at, limit)})
            yield _contract((constant, f"={schema[limit]}"), constant, {(*at, limit)})
    for field, value in schema.get("properties", {}).items():
        yield from _limits(f"{name}_{field}", value, (*at, "properties", field))


def _made(
    key: Key, file: str, name: str | None, places: Iterable[Place], values: Key | None = None
) -> Made:
    symbol = Symbol(f"{PACKAGE}/{file}", name) if name else None
    return Made(key, symbol, (frozenset(places),), values)


def _contract(name: Key, symbol: str, places: Iterable[Place], values: Key | None = None) -> Made:
    return _made(("contract", *name), "contract.py", symbol, places, values)


def _under(places: Iterable[Place], key: str) -> set[Place]:
    return {(*place, key) for place in places}


def _resolve(contract: Node, node: Node, *at: Place) -> tuple[set[Place], Node]:
    """Return the node that a reference leads to, and all places on the way."""
    places = set(at)
    for place, found in steps(contract, node):
        places.add(place)
        node = found if isinstance(found, dict) else {}
    return places, node


def _type(contract: Node, schema: Node, *at: Place) -> tuple[set[Place], str, Key | None]:
    """Return the places of a schema, the name of its type, and its key if it is an enumeration."""
    places, resolved = _resolve(contract, schema, *at)
    if "$ref" in schema and "enum" in resolved:
        name = schema["$ref"].rpartition("/")[2]
        return places, pascal(name), (f"models.{snake(name)}", pascal(name))
    return places, str(resolved.get("type")), None

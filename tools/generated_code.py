"""What the generator made of the contract, read from its code without importing it."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator
from pathlib import Path

from attrs import frozen
from openapi_python_client.strings import snake_case

from contract_document import SPEC, GenerationError

PARAMETER_DICTIONARIES = ("headers", "params", "cookies")

Declaration = tuple[str, str]  # as in `code: str`, and its type


@frozen
class Endpoint:
    """The generated functions of an operation.

    Attributes:
        returns: The type that they return.
        arguments: The declaration of each argument, by its name.
        names: The name of the argument of each parameter, by the parameter's name.
        parsed: The models that the parser makes, by the status.
    """

    returns: str
    arguments: dict[str, Declaration]
    names: dict[str, str]
    parsed: dict[str, set[str]]


@frozen
class Model:
    """A generated model.

    Attributes:
        fields: The declaration of each field, by its name in JSON.
        is_open: Whether it keeps members that the contract does not name.
    """

    fields: dict[str, Declaration]
    is_open: bool


def missing(thing: str) -> GenerationError:
    """Return the error that the generated package lacks something."""
    return GenerationError(f"Correct {SPEC}: the generator made no {thing}.")


def read_endpoint(package: Path, name: str, method: str, path: str) -> Endpoint:
    """Read the generated functions of an operation.

    Raises:
        GenerationError: If they are missing, or are those of another operation.
    """
    for module in package.glob(f"api/*/{snake_case(name)}.py"):
        functions = {one.name: one for one in parse(module) if isinstance(one, ast.FunctionDef)}
        send, read = functions["_get_kwargs"], functions["_parse_response"]
        sent = {one.value for one in ast.walk(send) if isinstance(one, ast.Constant)}
        if method in sent and (path in sent or "{" in path):
            break
    else:
        raise missing(f"module {name} for {method.upper()} {path} (two operations of this name?)")
    declared = functions["sync_detailed"].args
    arguments = {one.arg: declaration(one.arg, one.annotation, None) for one in declared.args}
    arguments |= {
        one.arg: declaration(one.arg, one.annotation, default)
        for one, default in zip(declared.kwonlyargs, declared.kw_defaults, strict=True)
    }
    returns = functions["_build_response"].returns
    return Endpoint(
        returns=ast.unparse(returns) if returns else "",
        arguments=arguments,
        names=dict(parameter_names(send, arguments)),
        parsed=dict(parsed_models(read)),
    )


def parameter_names(send: ast.FunctionDef, arguments: Container[str]) -> Iterator[tuple[str, str]]:
    """Yield the name of each parameter, and of the argument that it is set from."""
    for one in ast.walk(send):
        match one:
            case ast.Assign(
                targets=[ast.Subscript(ast.Name(dictionary), ast.Constant(str(name)))], value=value
            ) if dictionary in PARAMETER_DICTIONARIES:
                for each in ast.walk(value):
                    if isinstance(each, ast.Name) and each.id in arguments:
                        yield name, each.id


def parsed_models(read: ast.FunctionDef) -> Iterator[tuple[str, set[str]]]:
    """Yield each status that the generated parser knows, and the models that it makes of it."""
    for one in ast.walk(read):
        match one:
            case ast.If(test=ast.Compare(comparators=[ast.Constant(int(status))])):
                calls = (each for each in ast.walk(one) if isinstance(each, ast.Attribute))
                models = {ast.unparse(each.value) for each in calls if each.attr == "from_dict"}
                yield str(status), models


def read_models(package: Path) -> dict[str, Model]:
    """Read the generated models, by their names.

    Raises:
        GenerationError: If the names of the fields in JSON cannot be told.
    """
    paths = sorted(package.glob("models/*.py"))
    classes = (one for path in paths for one in parse(path) if isinstance(one, ast.ClassDef))
    return {one.name: read_model(one) for one in classes if not one.bases}


def read_model(class_: ast.ClassDef) -> Model:
    """Read a generated model.

    Raises:
        GenerationError: If the names of its fields in JSON cannot be told.
    """
    fields = {
        one.target.id: declaration(one.target.id, one.annotation, one.value)
        for one in class_.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }
    is_open = fields.pop("additional_properties", None) is not None
    members = [
        (one.lineno, one.args[0].value)
        for one in ast.walk(class_)
        if isinstance(one, ast.Call)
        and ast.unparse(one.func) == "d.pop"
        and isinstance(one.args[0], ast.Constant)
    ]
    # `from_dict` reads the members in the order of the fields.
    names = [str(name) for _, name in sorted(members)]
    if len(names) != len(fields):
        raise missing(f"field for each member of {class_.name}")
    return Model(dict(zip(names, fields.values(), strict=True)), is_open)


def declaration(name: str, annotation: ast.expr | None, default: ast.expr | None) -> Declaration:
    """Return the text and the type of an argument or a field, without what makes it optional."""
    type_ = ast.unparse(annotation).replace(" | Unset", "") if annotation else "Any"
    value = ast.unparse(default) if default else "UNSET"
    return f"{name}: {type_}" + ("" if value == "UNSET" else f" = {value}"), type_


def parse(path: Path) -> list[ast.stmt]:
    """Return the statements of a module."""
    return ast.parse(path.read_text(encoding="utf-8")).body

"""The extension of Sphinx for the documentation site: the public names, and the picture.

A name of our packages is documented where users import it, such as `blink_oauth.Token`, and links
to it work under the name of its module too, which annotations have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from inspect import cleandoc, getdoc, isclass, isfunction
from operator import itemgetter
from typing import Protocol

import attrs
import click
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from blink_oauth_cli.groups import FLAGS, flag_of
from blink_oauth_cli.main import command
from check_site import public_names
from token_life import picture, transitions

__all__ = ["setup"]

COLON = "\N{MODIFIER LETTER COLON}"
"""What a colon is for napoleon, which would take the words before it for a type."""
TYPE_OF_ATTRIBUTE = "   :type: "
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
PROSE = (nodes.paragraph, nodes.strong, nodes.emphasis)
"""Where a name becomes a link: not in a heading, nor in another link."""
HEADERS = {"Origin"}
"""Public names that the pages mean as headers of HTTP."""
SHORT = 22
"""The most characters of code that stays in one line; a table scrolls if it must."""
ONE_TRANSITION = re.compile(r"^\s*(\S+) --> (\w+): (.*)$", re.MULTILINE)


def find_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Node | None:
    """Resolve a reference by the public path of the name that it contains."""
    parts = node.get("reftarget", "").split(".")
    for start, part in enumerate(parts):
        if part in env.docs_site_paths:  # type: ignore[attr-defined]
            path = ".".join((env.docs_site_paths[part], *parts[start + 1 :]))  # type: ignore[attr-defined]
            domain = env.domains.python_domain
            if path in domain.objects:
                return domain.resolve_xref(
                    env, node["refdoc"], app.builder, "obj", path, node, contnode
                )
    return None


def remember_paths(app: Sphinx) -> None:
    """Note the full name of each public name."""
    paths = {name.rpartition(".")[2]: name for name in public_names()}
    app.env.docs_site_paths = paths  # type: ignore[attr-defined]


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Make a link of each public name that a page has as code."""
    for literal in list(doctree.findall(nodes.literal)):
        target = literal.astext().removesuffix("()")
        is_name = target.partition(".")[0] in app.env.docs_site_paths.keys() - HEADERS  # type: ignore[attr-defined]
        if is_name and re.fullmatch(r"[\w.]+", target) and type(literal.parent) in PROSE:
            reference = pending_xref(
                refdomain="py", reftype="obj", reftarget=target, refdoc=app.env.docname
            )
            literal.replace_self(reference)
            reference += literal


def adjust_typography(_app: Sphinx, doctree: nodes.document) -> None:
    """Keep an option, and short code in a table, in one line; write a dash after a parameter."""
    cells = {id(node) for cell in doctree.findall(nodes.entry) for node in cell.findall()}
    for literal in doctree.findall(nodes.literal):
        code = literal.astext()
        if len(code) <= SHORT and (id(literal) in cells or code.startswith("-")):
            literal["classes"].append("short")
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def prepare(
    _app: Sphinx, what: str, _name: str, value: object, _options: object, lines: list[str]
) -> None:
    """Prepare a docstring for napoleon.

    The arguments of a value are its attributes, if it has all of them. In the text of an attribute
    or of a returned value a colon follows no type.
    """
    if what in {"attribute", "property"}:
        lines[:] = [line.replace(":", COLON) for line in lines]
        return
    if "Returns:" in lines:
        begin = lines.index("Returns:") + 1
        end = lines.index("", begin) if "" in lines[begin:] else len(lines)
        lines[begin:end] = [line.replace(":", COLON) for line in lines[begin:end]]
    if not (isclass(value) and attrs.has(value) and "Args:" in lines):
        return
    if not any(field.name.startswith("_") for field in attrs.fields(value)):
        lines[lines.index("Args:")] = "Attributes:"


def write_signature(
    app: Sphinx,
    _what: str,
    _name: str,
    value: object,
    _options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str, str | None] | None:
    """Write the default values of a signature that users can read.

    The code of attrs does not show them. A name that is not public becomes an ellipsis. Users make
    no errors and call neither an enumeration nor a protocol, so these have no signature.
    """
    if signature is None:
        return None
    if isclass(value) and (issubclass(value, (BaseException, Enum)) or Protocol in value.__bases__):
        return "", None
    if isclass(value) and attrs.has(value):
        fields = attrs.fields_dict(value)

        def default(found: re.Match[str]) -> str:
            field = next(each for each in fields.values() if found[1] in (each.name, each.alias))
            given = field.default
            return str(getattr(given, "__name__", None) or repr(given))

        signature = re.sub(r"attr_dict\['(\w+)'\]\.default", default, signature)

    def public(found: re.Match[str]) -> str:
        is_known = found[1] in {"None", "True", "False", *app.env.docs_site_paths}  # type: ignore[attr-defined]
        return found[0] if is_known else "= ..."

    return re.sub(r"= ([A-Za-z_]\w*)[\w.]*(?![\w.(])", public, signature), returned


def code_or_name(found: re.Match[str]) -> str:
    """Return what is in backticks as code, unless it is a name, which may be a link."""
    return found[0] if re.fullmatch(r"[\w.]+", found[1]) else f"``{found[1].strip()}``"


def translate_markup(
    _app: Sphinx, _what: str, _name: str, _value: object, _options: object, lines: list[str]
) -> None:
    """Put the source of a fact into the list of arguments and errors, and mark code as code."""
    translated: list[str] = []
    is_source = is_block = False
    for line in lines:
        is_source = bool(line) and (is_source or line.startswith("Source: "))
        if line.startswith(TYPE_OF_ATTRIBUTE):
            # Beside the name it takes no line of its own.
            last = max(n for n, each in enumerate(translated) if each.startswith(".. attribute::"))
            translated.insert(last + 1, line)
        elif line.startswith("```"):
            is_block = line != "```"
            translated += [f".. code-block:: {line[3:]}", ""] if is_block else [""]
        elif is_block:
            translated.append(f"    {line}")
        else:
            begin = (":" if line.startswith("Source: ") else "    ") if is_source else ""
            translated.append(begin + CODE.sub(code_or_name, line))
    lines[:] = [line.replace(COLON, ":") for line in translated]


class Transitions(SphinxDirective):
    """Draw the states of a grant, with a table of the transitions that the diagram explains."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the picture and the table."""
        explained = ONE_TRANSITION.findall("\n".join(self.content))
        seen = {(before or "[*]", after) for _, before, after in transitions()}
        if {(before, after) for before, after, _ in explained} != seen:
            raise self.error(f"The store makes these transitions: {sorted(seen)}")
        rows = "\n".join(f"| {' | '.join(row)} |" for row in explained)
        table = f"| State | Next | When |\n| --- | --- | --- |\n{rows}".replace("[*]", "(none)")
        return [nodes.raw("", picture(), format="html"), *self.parse_text_to_nodes(table)]


class Names(SphinxDirective):
    """List the public names of a package, each with a link and what it is.

    A class or function has that in its docstring. The content of the directive has it for the
    others, as lines `name: text`.
    """

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        given = dict(line.split(": ", 1) for line in self.content)
        names = {
            name: value
            for path, value in public_names().items()
            for package, _, name in [path.rpartition(".")]
            if package == self.arguments[0]
        }
        others = {
            name for name, value in names.items() if not (isclass(value) or isfunction(value))
        }
        if given.keys() != others:
            raise self.error(f"These have no docstring, and need a line: {sorted(others)}")
        rows = (
            f"| `{name}` | {given.get(name) or summary_of(names[name])} |"
            for name in sorted(names, key=str.lower)
        )
        return self.parse_text_to_nodes("\n".join(("| Name | Meaning |", "| --- | --- |", *rows)))


def summary_of(value: object) -> str:
    """Return the first paragraph of a docstring in one line."""
    return (getdoc(value) or "").split("\n\n")[0].replace("\n", " ")


class Commands(SphinxDirective):
    """Document the command and its subcommands as click knows them."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each command, after the flags that many of them take."""
        context = click.Context(command, info_name="blink-oauth", **command.context_settings)
        rows = [(f"{flag_of(name)} {metavar}", text) for name, (metavar, text) in FLAGS.items()]
        text = "\n".join([*pages_of(context), "## Flags of the configuration", "", *table(rows)])
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def pages_of(context: click.Context) -> Iterator[str]:
    """Yield the documentation of a command in Markdown, and that of its subcommands."""
    documented = context.command
    yield f"## {context.command_path}\n"
    yield from paragraphs(documented.help or "")
    usage = " ".join((context.command_path, *documented.collect_usage_pieces(context)))
    yield f"```text\n{usage}\n```\n"
    parameters = [
        (each.name or "", each.get_help_record(context)) for each in documented.get_params(context)
    ]
    yield from table(record for name, record in parameters if record and name not in FLAGS)
    flags = [f"`{flag_of(name)}`" for name, record in parameters if record and name in FLAGS]
    if flags:
        yield f"[Flags of the configuration](#flags-of-the-configuration): {', '.join(flags)}\n"
    yield from paragraphs(documented.epilog or "")
    if isinstance(documented, click.Group):
        for name in documented.list_commands(context):
            subcommand = documented.get_command(context, name)
            assert subcommand is not None
            yield from pages_of(click.Context(subcommand, info_name=name, parent=context))


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text in Markdown; those with command lines as a block."""
    for paragraph in cleandoc(text).split("\n\n"):
        lines = paragraph.strip("\b\n").splitlines()
        commands = [line.strip() for line in lines if line.startswith("  $ ")]
        words = [line.strip() for line in lines if not line.startswith("  $ ")]
        yield plain(" ".join(words)) + "\n"
        if commands:
            yield "\n".join(("```console", *commands, "```\n"))


def table(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a table in Markdown of options and what they do."""
    yield "| Option | Meaning |\n| --- | --- |"
    # The usage shows the arguments, which have no meaning of their own.
    for option, meaning in filter(itemgetter(1), rows):
        yield f"| `{option}` | {plain(meaning)} |"
    yield ""


def plain(text: str) -> str:
    """Return a text so that Markdown shows it as it is, and flags as code."""
    escaped = re.sub(r"([*_<|`])", r"\\\1", text)
    return re.sub(r"(?<!\S)--[a-z-]+", lambda flag: f"`{flag[0]}`", escaped)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the hooks and the directive to Sphinx."""
    app.add_directive("mermaid", Transitions)
    app.add_directive("names", Names)
    app.add_directive("commands", Commands)
    app.connect("builder-inited", remember_paths)
    app.connect("autodoc-process-signature", write_signature)
    app.connect("autodoc-process-docstring", prepare, priority=400)
    app.connect("autodoc-process-docstring", translate_markup, priority=600)
    app.connect("doctree-read", adjust_typography)
    app.connect("doctree-read", link_names)
    app.connect("missing-reference", find_public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

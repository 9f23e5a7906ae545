"""The commands of `keys`: make, add, use and drop the keys that seal the stored tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .app import App
from .errors import CommandError, ExitCode
from .groups import Group
from .key_files import (
    new_line,
    opened_keys,
    read_keys,
    require_new_file,
    wrapped_line,
    write_keys,
    write_new_file,
)
from .options import STORE_FLAGS, Command

if TYPE_CHECKING:
    from blink_oauth.tokens import Secret

__all__ = ["keys"]


ADD = "To add a key to a store's file: blink-oauth keys add."


@click.group(cls=Group)
def keys(**_: object) -> None:
    """Make, add, use and drop the keys that seal the stored tokens.

    Keep them where you keep the key of the client certificate, and not in the database. Without
    them nobody can open what is stored, you included.
    """


@keys.command(
    cls=Command,
    examples="""
blink-oauth keys generate --output tokens.keys
blink-oauth keys generate --reveal | vault kv put secret/blink keys=-
""",
    flags=(),
    short_help="Make a new random key.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A new file for it, readable for you alone.",
)
@click.option("--reveal", is_flag=True, help="Print the key, for a vault.")
@click.pass_obj
def generate(app: App, output: Path | None, reveal: bool) -> None:
    """Make a new random key, and write it to a new file or print it.

    In the file it is wrapped, if BLINK_STORE_KEYS_WRAP and BLINK_STORE_KEYS_UNWRAP are set.
    """
    from blink_oauth_keeper.store.sealing import new_key

    if (output is None) is not reveal:
        raise click.UsageError("Say where the key goes: --output FILE, or --reveal to print it.")
    if output is None:
        app.screen.line(new_key().reveal())
        return
    require_new_file(output, otherwise=ADD)
    write_new_file(output, [new_line(app.key_commands)[0]], otherwise=ADD)
    app.screen.note(f"A new key: {output}. Name it in BLINK_STORE_KEYS_FILE, and back it up.")


@keys.command(
    cls=Command,
    examples="""
blink-oauth keys wrap tokens.keys --output wrapped.keys
""",
    flags=(),
    short_help="Wrap the keys of a file.",
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    required=True,
    help="A new file for the wrapped keys.",
)
@click.pass_obj
def wrap(app: App, file: Path, output: Path) -> None:
    """Wrap the keys of a file with BLINK_STORE_KEYS_WRAP, and write them to a new file.

    The keys stay the same, so that the store opens with the new file as before. Since they were on
    the disk, rotate them afterwards: blink-oauth keys add.
    """
    from blink_oauth_keeper.store.sealing import key_id

    require_new_file(output, otherwise=ADD)
    lines = []
    for number, key in enumerate(read_keys(file), 1):
        line, opened = wrapped_line(key, app.key_commands)
        if key_id(opened) != key_id(key):
            raise CommandError(
                f"The key in line {number} of {file} did not come back from wrapping and "
                "unwrapping. Nothing was changed.",
                "See that it is a key as it is, and that BLINK_STORE_KEYS_WRAP wraps what it reads "
                "from standard input.",
                ExitCode.USAGE,
            )
        lines.append(line)
    write_new_file(output, lines, otherwise=ADD)
    app.screen.note(
        f"Wrapped: {len(lines)} in {output}. Name it in BLINK_STORE_KEYS_FILE for every process, "
        f"then delete {file} and its copies."
    )


KEY_BACK = "Give that key back (BLINK_STORE_KEYS_FILE or BLINK_STORE_KEYS)"
WRITABLE = "Let this user write to the file and its folder"


@keys.command(
    cls=Command,
    examples="""
blink-oauth keys add
""",
    flags=STORE_FLAGS,
    short_help="Add a new key to the file: the first step of a rotation.",
)
@click.pass_obj
def add(app: App) -> None:
    """Add a new key to the end of the file: it opens, and seals nothing yet.

    It is the first step of a rotation. Give the file to every process that uses the store, and
    start anew those that do not read it by themselves. Then: blink-oauth keys seal.
    """
    from blink_oauth_keeper.store.sealing import key_id

    file = _key_file(app, "add the key there, after the others")
    with app.store():
        line, key = new_line(app.store_location.commands)
    write_keys(
        file,
        [*read_keys(file), line],
        replace=True,
        consequence="No new key was made.",
        remedy=f"{WRITABLE}, then run blink-oauth keys add again.",
    )
    app.screen.note(f"A new key is the last one in {file}. Back it up.")
    app.screen.line(f"{key_id(key)}")


@keys.command(
    cls=Command,
    examples="""
blink-oauth keys seal 0123456789abcdef
blink-oauth keys seal
""",
    flags=STORE_FLAGS,
    short_help="Seal every stored pair with a key: the second step.",
)
@click.argument("key_id", metavar="[KEY-ID]", required=False)
@click.pass_obj
def seal(app: App, key_id: str | None) -> None:
    """Make a key the first one, and seal every stored pair with it; the store stays in use.

    The id is what keys add printed. Without it, the first key stays the first one. All processes
    must have the key already: those that lack it cannot open what it seals. Run it again if it is
    interrupted. With keys in BLINK_STORE_KEYS, put the key first there yourself.
    """
    file = None if key_id is None else _key_file(app, "put the key first there")
    reordered = None if file is None else _with_first(app, file, key_id)
    with app.store() as store:
        # Seal with the present first key first: a fault shows before anything is changed.
        count, unopened = store.rotate_keys(), store.count_older_seals()
    if unopened:
        raise CommandError(
            f"{unopened} stored pairs are sealed with a key that is not given. The first key is "
            "still the first one.",
            f"{KEY_BACK}, then run blink-oauth keys seal again.",
        )
    older = 0
    if file is not None and reordered is not None:
        write_keys(
            file,
            reordered,
            replace=True,
            consequence="The first key is still the first one.",
            remedy=f"{WRITABLE}, then run blink-oauth keys seal again.",
        )
        with app.store() as store:
            count, older = count + store.rotate_keys(), store.count_older_seals()
    app.screen.line(f"Sealed anew: {count}. Still under another key: {older}.")
    if older:
        raise CommandError(
            f"{older} pairs are still under another key; all of them can be opened as before.",
            "Another process seals with another key first: give it the new one, then run "
            "blink-oauth keys seal again.",
        )


def _with_first(app: App, file: Path, wanted: str | None) -> list[Secret]:
    from blink_oauth_keeper.store.sealing import key_id

    lines = read_keys(file)
    ids = [key_id(key) for key in opened_keys(file, app.store_location.commands)]
    if wanted not in ids:
        raise CommandError(
            f"{file} has no key {wanted}. Nothing was changed.",
            f"Its keys are {', '.join(map(str, ids))}.",
            ExitCode.USAGE,
        )
    first = ids.index(wanted)
    others = (line for line, its_id in zip(lines, ids, strict=True) if its_id != wanted)
    return [lines[first], *others]


@keys.command(
    cls=Command,
    examples="""
blink-oauth keys drop
""",
    flags=STORE_FLAGS,
    short_help="Remove the keys that seal nothing: the last step.",
)
@click.pass_obj
def drop(app: App) -> None:
    """Remove the keys behind the first one, if no stored pair is sealed with them.

    It is the last step of a rotation. Every process must seal with the first key by now.
    """
    file = _key_file(app, "remove the keys there")
    remedy = f"{WRITABLE}, then run blink-oauth keys drop again."
    with app.store() as store:
        lines = read_keys(file)
        _require_unused(store.count_older_seals())
        write_keys(
            file, lines[:1], replace=True, consequence="All keys are still in it.", remedy=remedy
        )
        # Another process may have begun to write a pair before the file changed.
        older = store.count_older_seals()
        if older:
            write_keys(
                file, lines, replace=True, consequence="Only the first key is in it.", remedy=remedy
            )
    _require_unused(older)
    app.screen.line(f"Keys removed from {file}: {len(lines) - 1}.")


def _require_unused(older: int) -> None:
    if older:
        raise CommandError(
            f"{older} stored pairs are sealed with another key than the first. No key was removed.",
            "Run blink-oauth keys seal, then blink-oauth keys drop again.",
        )


def _key_file(app: App, instead: str) -> Path:
    file = app.store_location.keys_file
    if app.store_location.keys or file is None:
        raise CommandError(
            "The keys are not in a file. Nothing was changed.",
            f"If they are in BLINK_STORE_KEYS, {instead}; otherwise name a file in "
            "BLINK_STORE_KEYS_FILE.",
            ExitCode.USAGE,
        )
    return file

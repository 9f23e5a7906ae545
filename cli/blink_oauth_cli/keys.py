"""`keys generate` and `keys rotate`: the keys that seal the stored tokens."""

from __future__ import annotations

from pathlib import Path

import click

from .app import App, read_keys, write_keys
from .errors import CommandError, ExitCode
from .options import Command

__all__ = ["keys"]


@click.group()
def keys() -> None:
    """Make and rotate the keys that seal the stored tokens.

    Keep them where you keep the key of the client certificate, and not in the database. Without
    them nobody can open what is stored, you included.
    """


@keys.command(
    cls=Command,
    examples="""
blink-oauth keys generate --output tokens.keys
blink-oauth keys generate --reveal | vault kv put secret/blink keys=-
""",
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
    """Make a new random key, and write it to a new file or print it."""
    from blink_oauth_keeper.store.sealing import new_key

    if (output is None) is not reveal:
        raise click.UsageError("Say where the key goes: --output FILE, or --reveal to print it.")
    key = new_key()
    if output is None:
        app.screen.line(key.reveal())
        return
    if output.exists():
        raise CommandError(
            f"{output} is there already, and is left as it is.",
            "Name a new file. To add a key to a store's file: blink-oauth keys rotate.",
            ExitCode.USAGE,
        )
    write_keys(
        output,
        [key],
        replace=False,
        consequence="Nothing was written.",
        remedy="Name another file with --output.",
    )
    app.screen.note(f"A new key: {output}. Name it in BLINK_STORE_KEYS_FILE, and back it up.")


@keys.command(
    cls=Command,
    examples="""
blink-oauth keys rotate
blink-oauth keys rotate --drop-old
""",
)
@click.option("--drop-old", is_flag=True, help="Then remove the keys that seal nothing any more.")
@click.pass_obj
def rotate(app: App, drop_old: bool) -> None:
    """Put a new key first, and seal every stored pair with it; the store can be used meanwhile.

    With keys in a file, a new key is made and written to its first line. With keys in
    BLINK_STORE_KEYS, put the new one first there yourself: this then seals with it.

    Where other processes use the store, they must have the new key before anything is sealed with
    it. Give it to them first, or let all of them read the same file and start them anew. Drop the
    old keys only when no process has one of them as its first.
    """
    from blink_oauth_keeper.store.sealing import new_key

    file = app.store_location.keys_file
    writable = "Let this user write to the file and its folder"
    with app.store() as store:
        # Seal with the present first key first: a fault shows before a new key exists.
        count, unopened = store.rotate_keys(), store.count_older_seals()
    if unopened:
        raise CommandError(
            f"{unopened} stored pairs are sealed with a key that is not given. No key was made.",
            "Give that key back (BLINK_STORE_KEYS_FILE or BLINK_STORE_KEYS), then rotate again.",
        )
    older = 0
    if not app.store_location.keys:
        assert file is not None
        write_keys(
            file,
            [new_key(), *read_keys(file)],
            replace=True,
            consequence="No new key was made.",
            remedy=f"{writable}, then run blink-oauth keys rotate again.",
        )
        app.screen.note(f"A new key is the first one in {file}. Back it up.")
        with app.store() as store:
            count, older = store.rotate_keys(), store.count_older_seals()
    app.screen.line(f"Sealed anew: {count}. Still under another key: {older}.")
    if older:
        raise CommandError(
            f"{older} pairs are still under another key; all of them can be opened as before.",
            "Another process seals with another key first: give it the new one, then rotate again.",
        )
    if drop_old and not app.store_location.keys:
        assert file is not None
        write_keys(
            file,
            read_keys(file)[:1],
            replace=True,
            consequence="The older keys are still in it.",
            remedy=f"{writable}, then run blink-oauth keys rotate --drop-old again.",
        )
        app.screen.note(f"The older keys are gone from {file}.")

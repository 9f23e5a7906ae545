"""Check the built documentation site: its names, its links, and that it loads nothing from others.

    python tools/check_site.py FOLDER   the folder with the pages and objects.inv

Exit status: 0 no faults, 1 a public name has no page, a link is dead, a page has not one heading of
the first level, an image has no text in place of it, or a page loads a file from another host.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Collection, Iterator
from html.parser import HTMLParser
from importlib import import_module
from inspect import isclass, ismodule
from pathlib import Path
from urllib.parse import unquote, urlsplit

import attrs

__all__ = ["Page", "inventory", "main", "public_members", "public_names", "undocumented"]

PACKAGES = ("blink_oauth", "blink_oauth_keeper", "blink_oauth_testing")
NO_MEMBERS = {
    # Only a subclass calls its tests and what they share; the page has what a subclass overrides.
    "blink_oauth_testing.TokenStoreContract",
    # A table of SQLAlchemy.
    "blink_oauth_keeper.metadata",
}
LOADING = {"img", "script", "link", "iframe", "source"}
"""The elements that make a browser load a file."""
IN_STYLES = re.compile(r"""(?:@import|url\()\s*["']?((?:https?:)?//[^"')\s]+)""")


def public_names() -> dict[str, object]:
    """Return what users can import from our packages, by its full name."""
    found = {}
    for package in map(import_module, PACKAGES):
        for name in dir(package):
            value = getattr(package, name)
            is_public = name == "__version__" or not name.startswith("_")
            if is_public and name != "TYPE_CHECKING" and not ismodule(value):
                found[f"{package.__name__}.{name}"] = value
    return found


def public_members(cls: type) -> set[str]:
    """Return the methods and attributes of a class that users may use, also from bases of ours."""
    names: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in PACKAGES:
            names |= {*vars(base), *vars(base).get("__annotations__", ())}
    names |= {field.name for field in attrs.fields(cls)} if attrs.has(cls) else set()
    return {name for name in names if not name.startswith("_")}


def undocumented(names: dict[str, object], documented: Collection[str]) -> Iterator[str]:
    """Yield the public names and members that have no entry of their own.

    A member counts as documented if it is so at a public base class that has it.

    Args:
        names: The public names, with their values.
        documented: The names that the site documents.
    """
    for path, value in names.items():
        if path not in documented:
            yield path
        elif isclass(value) and path not in NO_MEMBERS:
            public = [base for base, each in names.items() if each in value.__mro__]
            for member in sorted(public_members(value)):
                if not any(f"{base}.{member}" in documented for base in public):
                    yield f"{path}.{member}"


def inventory(file: Path) -> set[str]:
    """Return the names of Python that an objects.inv lists."""
    *_, compressed = file.read_bytes().split(b"\n", 4)
    lines = zlib.decompress(compressed).decode().splitlines()
    return {line.split(" ")[0] for line in lines if line.split(" ")[1].startswith("py:")}


class Page(HTMLParser):
    """What a page links to, what it loads, where it can be linked to, and its headings and images.

    Args:
        text: The page in HTML.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set(IN_STYLES.findall(text))
        self.anchors = {""}
        self.titles = 0
        self.unnamed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and the id of an element, and what a screen reader needs."""
        values = dict(attrs)
        self.titles += tag == "h1"
        if (tag == "img" and "alt" not in values) or (
            values.get("role") == "img" and not values.keys() & {"aria-label", "aria-labelledby"}
        ):
            self.unnamed.append(self.get_starttag_text() or tag)
        self.anchors |= {values.get("id") or "", (tag == "a" and values.get("name")) or ""}
        address = values.get("href") or values.get("src")
        if address is not None:
            (self.loaded if tag in LOADING else self.links).add(address)


def faults_of(folder: Path) -> Iterator[str]:
    """Yield dead links between pages, files of other hosts, and faults of headings and images."""
    pages = {path: Page(path.read_text("utf-8")) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        name = path.relative_to(folder)
        if page.titles != 1:
            yield f"{name} has {page.titles} headings of the first level"
        yield from (f"{name} has an image without a text: {image}" for image in page.unnamed)
        for address in sorted(page.links | page.loaded):
            parts = urlsplit(address)
            if parts.netloc and address in page.loaded:
                yield f"{name} loads {address}"
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else {""}
            if not target.is_file() or unquote(parts.fragment) not in anchors:
                yield f"{name} has a dead link to {address}"
    for style in folder.rglob("*.css"):
        for address in IN_STYLES.findall(style.read_text("utf-8")):
            yield f"{style.relative_to(folder)} loads {address}"


def main(folder: Path) -> int:
    """Check a site and print every fault; return the exit status."""
    names, documented = public_names(), inventory(folder / "objects.inv")
    faults = [
        *(f"{name} has no page" for name in undocumented(names, documented)),
        *faults_of(folder.resolve()),
    ]
    pages = len(list(folder.rglob("*.html")))
    print(
        "\n".join(faults) or f"{pages} pages; {len(names)} public names, {len(documented)} in all."
    )
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))

"""The check of the documentation site finds what is missing in it."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

import blink_oauth
import blink_oauth_keeper
import check_site
from blink_oauth_testing import sandbox, store_contract
from check_site import Page, inventory, public_members, public_names, undocumented

NAMES = public_names()
DOCUMENTED = {
    *NAMES,
    *(
        f"{path}.{member}"
        for path, value in NAMES.items()
        if isinstance(value, type)
        for member in public_members(value)
    ),
}


def test_the_public_names_are_those_that_users_import_also_on_first_access() -> None:
    expected = {f"blink_oauth.{name}" for name in blink_oauth.__all__}
    expected |= {f"blink_oauth_keeper.{name}" for name in blink_oauth_keeper.__all__}
    expected |= {
        *("blink_oauth_keeper.GrantAuth", "blink_oauth_keeper.SqlTokenStore"),
        *("blink_oauth_keeper.metadata", "blink_oauth_keeper.otel_listener"),
        "blink_oauth_keeper.prometheus_listener",
        *(f"blink_oauth_testing.{name}" for name in (*sandbox.__all__, *store_contract.__all__)),
    }
    assert NAMES.keys() == expected


def test_a_complete_site_lacks_nothing() -> None:
    assert list(undocumented(NAMES, DOCUMENTED)) == []


@pytest.mark.parametrize(
    "missing",
    [
        "blink_oauth.Token",
        "blink_oauth.Token.expires_at",
        "blink_oauth.Oddity.CACHEABLE",
        "blink_oauth.RevocationField",
        "blink_oauth_keeper.TokenManager.aget",
        "blink_oauth_keeper.SqlTokenStore.new_key",
        "blink_oauth_testing.BankPolicy",
    ],
)
def test_a_name_without_an_entry_is_found(missing: str) -> None:
    assert list(undocumented(NAMES, DOCUMENTED - {missing})) == [missing]


def test_a_method_of_a_store_is_documented_once_at_the_protocol() -> None:
    own = {f"blink_oauth_keeper.{store}.claim" for store in ("MemoryTokenStore", "SqlTokenStore")}
    assert list(undocumented(NAMES, DOCUMENTED - own)) == []
    without = DOCUMENTED - own - {"blink_oauth_keeper.TokenStore.claim"}
    assert len(list(undocumented(NAMES, without))) == 3


HEADING = "<h1>B</h1>"


def built(folder: Path, page: str, style: str = "") -> Path:
    """Write a site of two pages and return its folder."""
    listed = "\n".join(f"{name} py:class 1 a.html#$ -" for name in DOCUMENTED)
    head = b"# Sphinx inventory version 2\n# Project: p\n# Version: 1\n# zlib\n"
    (folder / "objects.inv").write_bytes(head + zlib.compress(listed.encode()))
    (folder / "a.html").write_text('<h1 id="here">A</h1>', "utf-8")
    (folder / "b.html").write_text(page, "utf-8")
    (folder / "site.css").write_text(style, "utf-8")
    return folder


def test_a_site_without_faults_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = '<a href="a.html#here">a</a> <a href="https://example.org/x">x</a><link href="site.css">'
    assert check_site.main(built(tmp_path, HEADING + page)) == 0
    assert "2 pages" in capsys.readouterr().out
    assert inventory(tmp_path / "objects.inv") == DOCUMENTED


@pytest.mark.parametrize(
    ("page", "style", "fault"),
    [
        ('<a href="c.html">c</a>', "", "b.html has a dead link to c.html"),
        ('<a href="a.html#there">a</a>', "", "b.html has a dead link to a.html#there"),
        ('<a href="#there">b</a>', "", "b.html has a dead link to #there"),
        ('<img src="c.png" alt="">', "", "b.html has a dead link to c.png"),
        ('<img src="a.html">', "", 'b.html has an image without a text: <img src="a.html">'),
        ('<svg role="img"></svg>', "", 'b.html has an image without a text: <svg role="img">'),
        ("<h1>C</h1>", "", "b.html has 2 headings of the first level"),
        (
            '<script src="https://cdn.example/x.js"></script>',
            "",
            "b.html loads https://cdn.example/x.js",
        ),
        ("", "@import '//fonts.example/f.css'", "site.css loads //fonts.example/f.css"),
        (
            "<style>p { background: url(https://i.example/i) }</style>",
            "",
            "b.html loads https://i.example/i",
        ),
    ],
)
def test_a_fault_of_a_page_is_found(
    page: str, style: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_site.main(built(tmp_path, HEADING + page, style)) == 1
    assert capsys.readouterr().out == f"{fault}\n"


def test_a_page_can_be_linked_to_by_the_ids_of_its_elements() -> None:
    assert Page('<p id="one"><a name="two"></a></p>').anchors == {"", "one", "two"}

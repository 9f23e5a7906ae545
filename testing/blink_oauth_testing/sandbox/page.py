"""The layout and style of the banks' pages.

Plain HTML without scripts, for any width, keyboards, screen readers, and light and dark mode. Text
carries all information, never colour alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape

__all__ = ["PAGE_HEADERS", "page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --ground: #f0f2f5;
  --line: #767d86; --soft: #525960; --main: #0b5394; --on-main: #ffffff;
  --bad: #a3161b; }
@media (prefers-color-scheme: dark) { :root { --ink: #eceff2; --paper: #1c2127; --ground: #101317;
  --line: #8b949e; --soft: #b3bac2; --main: #8ab8f0; --on-main: #0b1a2b;
  --bad: #ff9d98; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem 1rem; background: var(--ground); color: var(--ink);
  font: 1.0625rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 34rem; margin: 4vh auto; padding: 1.75rem; background: var(--paper);
  border-radius: .75rem; border-top: .375rem solid var(--main); }
main.bad { border-top-color: var(--bad); }
h1 { margin: 0 0 1rem; font-size: 1.5rem; line-height: 1.25; }
h1 .sign { display: inline-block; width: 2rem; height: 2rem; margin-right: .625rem;
  border-radius: 50%; text-align: center; font-size: 1.125rem; line-height: 2rem;
  color: var(--paper); background: var(--bad); }
p { margin: 0 0 1rem; }
form { margin: 0 0 1.25rem; }
.note { color: var(--soft); font-size: .9375rem; }
.error { color: var(--bad); font-weight: 600; }
label, legend { font-weight: 600; }
fieldset { margin: 0 0 1.25rem; padding: .75rem 1rem; border: 1px solid var(--line);
  border-radius: .5rem; }
.choice { display: flex; gap: .75rem; align-items: flex-start; padding: .5rem 0; }
.choice label { font-weight: 400; }
.choice small { display: block; color: var(--soft); font-size: .875rem; }
input[type=checkbox] { flex: none; width: 1.375rem; height: 1.375rem; margin: .125rem 0 0;
  accent-color: var(--main); }
input[type=text], input[type=password] { display: block; width: 100%; margin: .25rem 0 1rem;
  padding: .625rem .75rem; font: inherit; color: inherit; background: var(--paper);
  border: 1px solid var(--line); border-radius: .5rem; }
input[readonly] { background: var(--ground); }
.buttons { display: flex; flex-wrap: wrap; gap: .75rem; }
button { min-height: 2.75rem; padding: .5rem 1.25rem; font: inherit; font-weight: 600;
  border: 2px solid var(--main); border-radius: .5rem; background: var(--main);
  color: var(--on-main); cursor: pointer; }
button.second { background: transparent; color: var(--main); }
:focus-visible { outline: 3px solid var(--ink); outline-offset: 3px; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main{attributes}>
<h1>{sign}{title}</h1>
{content}
</main>
</body>
</html>
"""

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

PAGE_HEADERS: Mapping[str, str] = {
    "Content-Type": "text/html; charset=utf-8",
    # No form-action: browsers would apply it to the redirect that follows the form, too, which
    # leads to the redirect URI of the application.
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""The response headers of every page."""


def page(title: str, content: str, *, is_error: bool = False) -> bytes:
    """Return a complete page.

    Args:
        title: Title and only heading, plain text.
        content: Trusted HTML; the caller must escape all foreign text in it.
        is_error: Whether the page reports an error.
    """
    attributes = ' class="bad"' if is_error else ""
    sign = '<span class="sign" aria-hidden="true">!</span>' if is_error else ""
    text = _PAGE.format(
        title=escape(title), style=_STYLE, attributes=attributes, sign=sign, content=content
    )
    return text.encode()

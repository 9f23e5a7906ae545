"""The documentation site: `nox -s docs` builds it from the root of the repository.

So the pages find the README and the other files outside of `docs` by their relative links.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from blink_oauth import __version__

project = "blink-oauth"
project_copyright = "The blink-oauth developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docs_site",
]
root_doc = "docs/index"
include_patterns = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "spec/README.md",
    "docs/**",
]
exclude_patterns = [".*", "docs/_*"]
templates_path = ["_templates"]
# The output of a command has odd quotes, and stays uncoloured.
suppress_warnings = ["misc.highlighting_failure"]

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4

# A name in backticks is a link if it is public. Whatever is of another library has no page here.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:.*", r"(?!blink_oauth).*"),
    # Types that users neither make nor name.
    (
        "py:class",
        r".*\.(BootClock|CredentialFiles|IssuedTokens|MovingGrant|Refusal|Response|StoredGrant|StoredNotice|T)",
    ),
]

add_module_names = False
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False  # a store has only the methods that it adds to TokenStore
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 72
python_use_unqualified_type_names = True

smartquotes = False  # a table quotes messages and options, such as --help

html_theme = "furo"
html_title = f"blink-oauth {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "index.html"}
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

linkcheck_anchors = False  # pages that are made by scripts have none
linkcheck_timeout = 20

"""
How Sphinx builds these pages: `make docs`, offline, and a warning is an error.

The pages are plain Markdown that reads well on a Git host too; `tests/docs` runs their code.
"""

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

sys.path.insert(0, str(Path(__file__).parent))  # for diagrams
sys.path.insert(0, str(Path(__file__).parent.parent))

import aiorpc  # the line above makes it this tree's, installed or not

project = "aiorpc"
project_copyright = "the aiorpc developers"
version = release = aiorpc.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "diagrams"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

html_theme = "furo"
html_title = f"aiorpc {version}"
html_show_sphinx = False
html_copy_source = False
html_search_scorer = str(Path(__file__).with_name("search_scorer.js"))

# `make links` asks other sites for each page that ours link to, with its anchor.
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1|[\w.-]+\.example)\b"]
linkcheck_timeout = 20  # seconds

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

# Every reference to a name of ours must resolve, but for type variables and private types in
# signatures; offline, the names of others cannot.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!aiorpc\b).*"),
    (r"py:class", r"aiorpc\..*\.(_\w+|F|P|R|S|T|E|T_co|R_co)"),
]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", google_style)


def google_style(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """
    What ``sphinx.ext.napoleon`` does, but for attributes and properties: it takes what stands there
    before a colon for a type.
    """
    if what not in {"attribute", "property", "data"}:
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, obj, options).lines()

"""
Draws the ``mermaid`` blocks of the pages, in the colours of light and of dark pages. A Git host
draws the same blocks itself. Mermaid runs in the interpreter of mermaidx: no browser, no network.
"""

from __future__ import annotations

from base64 import b64encode

import mermaidx
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

THEMES = {"only-light": "neutral", "only-dark": "dark"}


class Diagram(SphinxDirective):
    """A diagram. ``accTitle: text`` in the diagram is what a screen reader says instead."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        source = "\n".join(self.content)
        titles = [line.partition(":")[2] for line in self.content if "accTitle:" in line]
        if not titles:
            raise self.error("this diagram needs a line `accTitle: what it shows`")
        drawn = []
        for theme_class, theme in THEMES.items():
            try:
                svg = mermaidx.render(source, theme=theme).svg()
            except Exception as error:
                raise self.error(f"Mermaid cannot draw this: {error}") from error
            uri = "data:image/svg+xml;base64," + b64encode(svg.encode()).decode()
            drawn.append(nodes.image(uri=uri, alt=titles[0].strip(), classes=[theme_class]))
        return list(drawn)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mermaid", Diagram)
    return {"parallel_read_safe": True}

"""
Shows an OpenAPI document of a gateway as a page of HTML. A pure function: the page has no script,
and needs nothing from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby
from typing import Any

from ..contracts.model import HIDDEN

__all__ = ["CONTENT_SECURITY_POLICY", "page_of"]

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"

_STYLE = """\
:root { color-scheme: light dark; --line: #8884; --soft: #8881;
--link: light-dark(#0550ae, #79c0ff) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
a { color: var(--link) } h1 small { font-weight: normal; opacity: .7 }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .5rem 1rem }
summary { cursor: pointer; overflow-wrap: anywhere } summary code { font-weight: bold }
code, pre { font: 14px/1.5 ui-monospace, monospace }
pre { background: var(--soft); border-radius: 6px; padding: .5rem 1rem; overflow-x: auto }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top;
border-bottom: 1px solid var(--line); padding: .25rem .5rem .25rem 0 }
.note { border-left: 3px solid #d29922; padding-left: .75rem; white-space: pre-line }
"""


def page_of(document: Mapping[str, Any]) -> str:
    """Return the page of *document*."""
    title = escape(document["info"]["title"])
    version = escape(document["info"]["version"])
    return "".join(
        (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_STYLE}</style></head><body><h1>{title} <small>{version}</small></h1>",
            "<main>",
            *_services(document),
            *_schemas(document["components"]["schemas"]),
            "</main></body></html>",
        )
    )


def _services(document: Mapping[str, Any]) -> Iterator[str]:
    server = document["servers"][0]["url"].rstrip("/")
    operations = [(path, methods["post"]) for path, methods in document["paths"].items()]
    for service, own in groupby(operations, key=lambda each: each[1]["tags"][0]):
        yield f"<h2>{escape(service)}</h2>"
        for path, operation in own:
            yield from _operation(server + path, operation)


def _operation(path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    result = next(iter(operation["responses"]["200"]["content"].values()))["schema"]
    kind = "Items" if "x-aiorpc-stream" in operation else "Result"
    yield f'<details id="{escape(operation["operationId"])}"><summary><code>POST {escape(path)}'
    yield f"</code> {escape(operation['summary'])}</summary>"
    if "description" in operation:
        yield f'<p class="note">{escape(operation["description"])}</p>'
    if rows := "".join(_rows(body)):
        yield f"<table><tr><th>Argument<th>Type<th>Default</tr>{rows}</table>"
    yield f"<p>{kind}: {_type(result)}</p>"
    sent = json.dumps(dict.fromkeys(body.get("required", ()), "...")).replace('"..."', "...")
    sent = escape(sent.replace("'", "'\\''"))
    yield f"<pre>curl {escape(path)} -H 'Content-Type: application/json' -d '{sent}'</pre>"
    yield f"<p>Errors: {', '.join(each for each in operation['responses'] if each != '200')}"
    yield ', as <a href="#schema-problem.json">problem+json</a></p></details>'


def _rows(body: Mapping[str, Any]) -> Iterator[str]:
    required = body.get("required", ())
    for name, schema in body.get("properties", {}).items():
        default = "required" if name in required else "hidden" if HIDDEN in schema else ""
        if "default" in schema:
            default = f"<code>{escape(json.dumps(schema['default']))}</code>"
        yield f"<tr><td><code>{escape(name)}</code><td>{_type(schema)}<td>{default}</tr>"
    more = body.get("additionalProperties", True)
    if more is not False:
        kind = "any" if more is True else _type(more)
        yield f"<tr><td>others<td>{kind}<td></tr>"


def _schemas(schemas: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Schemas</h2>"
    for name, schema in schemas.items():
        shown = escape(json.dumps(schema, indent=2))
        yield f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        yield f"<pre>{shown}</pre></details>"


def _type(schema: Mapping[str, Any]) -> str:
    """Return a short text for *schema*, as HTML."""
    match schema:
        case {"$ref": str(ref)}:
            name = escape(ref.rpartition("/")[2])
            return f'<a href="#schema-{name}">{name}</a>'
        case {"anyOf": list(parts)} | {"oneOf": list(parts)}:
            return " or ".join(map(_type, parts))
        case {"enum": list(values)}:
            return escape(" or ".join(json.dumps(each) for each in values))
        case {"type": "array", "items": dict(item)}:
            return f"array of {_type(item)}"
        case {"type": "object", "additionalProperties": dict(item)}:
            return f"object of {_type(item)}"
        case {"type": str(kind)}:
            more = {
                name: value
                for name, value in schema.items()
                if name not in ("type", "default", HIDDEN, "title", "description")
            }
            shown = ", ".join(f"{name}: {json.dumps(value)}" for name, value in more.items())
            return escape(f"{kind} ({shown})" if shown else kind)
    return "any"

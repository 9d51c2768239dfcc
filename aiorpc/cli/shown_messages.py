"""
Prints the properties, the headers and the body of one message, for people. Writes to stdout.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..logs import counted, one_line
from ..parked.showing import ShownMessage

__all__ = ["MOST_BINARY", "MOST_BODY", "print_contents"]

#: Characters of a body, and of a header, that are shown.
MOST_BODY, MOST_HEADER = 20_000, 2_000
#: Bytes of a binary body that are shown.
MOST_BINARY = 256


def print_contents(shown: ShownMessage, *, hidden: Collection[str] = ()) -> None:
    """Print *shown*, but not the *hidden* headers."""
    _print_mapping("properties", shown.properties)
    _print_mapping("headers", {k: v for k, v in shown.headers.items() if k not in hidden})
    trouble = f"; {one_line(shown.body_trouble)}" if shown.body_trouble else ""
    print(f"\nbody ({counted(shown.bytes, 'byte')}{trouble})")
    for line in _body_lines(shown):
        print(f"  {line}")


def _print_mapping(heading: str, values: Mapping[str, Any]) -> None:
    if values:
        print(f"\n{heading}")
    width = min(max(map(len, values), default=0), 30)
    for name, value in values.items():
        text = _as_json(value) if isinstance(value, list | dict) else str(value)
        print(f"  {one_line(name):{width}}  {one_line(text, MOST_HEADER)}")


def _body_lines(shown: ShownMessage) -> Iterator[str]:
    if shown.body_base64 is not None:
        data = base64.b64decode(shown.body_base64[: 4 * MOST_BINARY])
        text = data[:MOST_BINARY].hex(" ")
        yield from (text[at : at + 48].rstrip() for at in range(0, len(text), 48))
    else:
        is_decoded = shown.body_text is None
        text = shown.body_text or (_as_json(shown.body, indent=2) if is_decoded else "")
        for line in text[:MOST_BODY].split("\n"):
            yield one_line(line.rstrip("\r"), MOST_BODY)
    if len(text) > MOST_BODY or (shown.body_base64 is not None and shown.bytes > MOST_BINARY):
        yield "... (--body writes the whole body)"


def _as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)

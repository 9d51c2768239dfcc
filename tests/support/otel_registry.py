"""What the registry of OpenTelemetry's semantic conventions says about its names."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from opentelemetry import semconv

__all__ = ["registry"]

_PACKAGE = Path(next(iter(semconv.__path__)))
#: A constant and the first line of the text below it.
_ENTRY = re.compile(
    r'^[A-Z][A-Z0-9_]*: Final = \(?\s*"([^"]+)"\s*\)?\s*"""\s*([^\n]*)', re.MULTILINE
)


@cache
def registry(kind: str) -> dict[str, str]:
    """Return the names of *kind*, ``attributes`` or ``metrics``, each with its description."""
    found: dict[str, str] = {}
    # The stable ones last: they replace the incubating names, which are deprecated then.
    for path in [*_PACKAGE.glob(f"_incubating/{kind}/*.py"), *_PACKAGE.glob(f"{kind}/*.py")]:
        found.update(_ENTRY.findall(path.read_text(encoding="utf-8")))
    return found

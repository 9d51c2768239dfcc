"""
Packs the document of a contract for a message: with 300 methods, it has 383 kB, and 16 kB packed.
Pure functions.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import msgspec

__all__ = ["packed", "unpacked"]

#: Bytes of JSON up to which a document stays as it is, and that an unpacked one has at most.
PLAIN, LARGEST = 64 * 1024, 4 * 1024 * 1024


def packed(document: Any) -> Any:
    """Return *document*, or if it is large a text: its JSON, compressed by zlib, in base64."""
    body = msgspec.json.encode(document)
    return document if len(body) <= PLAIN else base64.b64encode(zlib.compress(body)).decode()


def unpacked(document: Any) -> Any:
    """
    Return the document that :func:`packed` got.

    Raises:
        ValueError: the text is damaged, or larger than 4 MiB when it is unpacked.
    """
    if not isinstance(document, str):
        return document
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(base64.b64decode(document, validate=True), LARGEST)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not inflater.eof:
        raise ValueError(f"its text is cut off, or has more than {LARGEST:,} bytes unpacked")
    return msgspec.json.decode(body)

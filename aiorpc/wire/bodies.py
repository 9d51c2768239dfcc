"""
Bodies as serializers read them: decompressed, and text in UTF-8. Pure functions: nothing here
awaits or does I/O.
"""

from __future__ import annotations

import codecs
import zlib
from typing import Any

from ..exceptions import MalformedRequest

__all__ = ["as_utf8", "decompress", "is_charset"]


def is_charset(encoding: str) -> bool:
    """Return whether Python can encode text in *encoding*."""
    try:
        codecs.lookup(encoding)
        "".encode(encoding)
    except (LookupError, ValueError):  # a codec that is not a charset, such as hex; or a NUL
        return False
    return True


_USUAL_ENCODINGS = frozenset({None, "", "utf-8", "UTF-8", "utf8", "us-ascii", "binary"})


def as_utf8(body: bytes, content_encoding: str | None) -> bytes:
    """
    Return a text *body* in UTF-8, whatever charset its ``content_encoding`` names.

    A ``content_encoding`` that is not a charset is ignored, as py-amqp does (its ``auto_decode``).

    Raises:
        MalformedRequest: the body is not in the charset that it claims.
    """
    if content_encoding in _USUAL_ENCODINGS or not is_charset(content_encoding or ""):
        return body
    try:
        return body.decode(content_encoding or "").encode("utf-8", "surrogatepass")
    except UnicodeError as exc:
        raise MalformedRequest(
            f"the body is not the {content_encoding} that it claims to be: {exc}"
        ) from None


# Names and aliases of kombu's ``kombu/compression.py``, where gzip is zlib data and no gzip file.
_COMPRESSIONS = {
    "application/x-gzip": "gzip",
    "gzip": "gzip",
    "zlib": "gzip",
    "application/x-bz2": "bzip2",
    "bzip2": "bzip2",
    "bzip": "bzip2",
}


def decompress(body: bytes, compression: Any, limit: int) -> bytes:
    """
    Decompress *body* as its header ``compression`` says, to at most *limit* bytes.

    Raises:
        MalformedRequest: unknown compression, damaged data, or more than *limit* bytes.
    """
    name = _COMPRESSIONS.get(compression) if isinstance(compression, str) else None
    if name is None:
        raise MalformedRequest(
            f"unknown compression {str(compression)[:40]!r}: send application/x-gzip, "
            "application/x-bz2, or no compression"
        )
    inflater: Any
    if name == "gzip":
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # reads zlib data and gzip files
    else:
        import bz2  # some builds of Python lack it, and few programs need it

        inflater = bz2.BZ2Decompressor()
    try:
        plain: bytes = inflater.decompress(body, limit + 1)
    except (zlib.error, OSError) as exc:
        raise MalformedRequest(f"the body is not the {name} that it claims to be: {exc}") from None
    if len(plain) > limit:
        raise MalformedRequest(
            f"the body is larger than {limit} bytes once decompressed: send less, or raise "
            "MAX_MESSAGE_SIZE of the receiver"
        )
    if not inflater.eof:
        raise MalformedRequest(f"the body is cut short: its {name} data has no end; send it again")
    return plain

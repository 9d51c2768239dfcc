"""
Malformed messages to a service, one for each seed. The same seed gives the same message. Pure
functions.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from random import Random
from struct import pack

from tests.support.raw_publisher import RawMessage, entry, short, table

__all__ = ["malformed"]

#: Texts that software reads wrong: line breaks, no UTF-8, wildcards, names of charsets and codecs.
_WORDS = (
    *(b"", b"\0", b"\n", b"a\r\nERROR forged line", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3(", b"*"),
    *(b"#", b"a.b.c", b"..", b"__class__", b"%s{0}", "é∑🙂".encode(), b"x" * 255, b"\x1b[31m"),
    *(b"application/json", b"application/x-yaml", b"application/x-python-serialize", b"text/plain"),
    *(b"application/data", b"utf-8", b"utf-16", b"latin-1", b"idna", b"unicode_escape", b"rot13"),
    *(b"undefined", b"zlib_codec", b"binary", b"gzip", b"zlib", b"bzip2", b"amq.rabbitmq.reply-to"),
    *(b"nan", b"-1", b"1e400", b"99999999999999999999", b"null"),
)
_JSON = (
    *(b"null", b"[]", b"{}", b"0", b'"text"', b"NaN", b"[NaN, -Infinity]", b"1e999", b"true"),
    *(b'{"args": 1, "kwargs": {}}', b'{"args": [], "kwargs": [1]}', b'{"args": []}', b"\xff\xff"),
    *(
        b'{"args": [], "args": [1], "kwargs": {}}',
        b'{"kwargs": {}}',
        b'["\\ud800"]',
        b"\xef\xbb\xbf",
    ),
    *(b'{"args": [1, 2, 3], "kwargs": {"number": 4}}', b'{"args": [], "kwargs": {"self": 1}}'),
    *(b'{"args": ["\\ud800"], "kwargs": {}}', b'{"args": [{"__type__": "x"}], "kwargs": {}}'),
    *(b'{"args": [{"__type__": "datetime", "__value__": 5}], "kwargs": {}}', b"- &a [*a]"),
    *(b'{"result": 1, "error": null}', b'{"args": [1e999], "kwargs": {"\\u0000": null}}'),
    b'{"args": [' + b"9" * 5000 + b'], "kwargs": {}}',
    b'{"args": ["' + b"x" * 200_000 + b'"], "kwargs": {}}',
    *(b"[" * 100_000, b'{"a":' * 20_000, b"!!python/object/apply:os.getcwd []"),
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]",
)
#: Names that aiorpc, Nameko and RabbitMQ give a meaning.
_HEADERS = (
    *(b"nameko.call_id_stack", b"nameko.language", b"nameko.aiorpc_deadline", b"aiorpc-resent"),
    *(b"aiorpc-attempts", b"aiorpc-oversized", b"aiorpc-copy", b"aiorpc-exchange", b"x-death"),
    *(
        b"aiorpc-routing-key",
        b"x-delivery-count",
        b"x-acquired-count",
        b"compression",
        b"traceparent",
    ),
)


def malformed(seed: int, service: str, method: str, events: str, event: str) -> RawMessage:
    """
    Return the message of *seed*: a good request or event, of which one to three things are spoiled.

    Args:
        events: the exchange of the events that the service handles.
        event: the type of these events.
    """
    rng = Random(seed)
    request = RawMessage(
        b"nameko-rpc",
        f"{service}.{method}".encode(),
        {
            "content_type": short(b"application/json"),
            "content_encoding": short(b"utf-8"),
            "headers": table(entry(b"nameko.call_id_stack", b"A", pack(">I", 0))),
            "correlation_id": short(f"seed-{seed}".encode()),
            "reply_to": short(b"fuzz-nobody"),
        },
        json.dumps({"args": [seed], "kwargs": {}}).encode(),
    )
    if rng.random() < 0.3:
        request.exchange, request.routing_key = events.encode(), event.encode()
    elif rng.random() < 0.1:
        request.exchange = rng.choice([b"aiorpc-cancel", b"aiorpc-discovery"])
    for spoil in rng.choices(_SPOILS, k=rng.randint(1, 3)):
        spoil(rng, request)
    return request


def _text(rng: Random) -> bytes:
    return rng.choice(_WORDS) if rng.random() < 0.7 else rng.randbytes(rng.randint(0, 255))


def _body(rng: Random, message: RawMessage) -> None:
    message.body = rng.choice(_JSON)


def _damaged_body(rng: Random, message: RawMessage) -> None:
    body = bytearray(message.body)
    if body:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    message.body = bytes(body[: rng.randint(0, len(body))] if rng.random() < 0.5 else body)


def _random_body(rng: Random, message: RawMessage) -> None:
    message.body = rng.randbytes(rng.choice([0, 1, 100, 5000]))


def _compressed(rng: Random, message: RawMessage) -> None:
    plain = rng.choice([message.body, bytes(rng.choice([10_000, 5_000_000])), b"[" * 50_000])
    packed = zlib.compress(plain, 1)
    message.body = packed[: rng.randint(1, len(packed))] if rng.random() < 0.3 else packed
    name = rng.choice([b"gzip", b"application/x-gzip", b"bzip2", b"br"])
    message.properties["headers"] = table(entry(b"compression", b"S", _long(name)))


def _type(rng: Random, message: RawMessage) -> None:
    message.properties[rng.choice(["content_type", "content_encoding"])] = short(_text(rng))


def _property(rng: Random, message: RawMessage) -> None:
    names = ["correlation_id", "reply_to", "expiration", "message_id", "type", "user_id", "app_id"]
    message.properties[rng.choice(names)] = short(_text(rng))


def _number(rng: Random, message: RawMessage) -> None:
    if rng.random() < 0.5:
        message.properties["timestamp"] = rng.randbytes(8)
    message.properties[rng.choice(["delivery_mode", "priority"])] = rng.randbytes(1)


def _missing(rng: Random, message: RawMessage) -> None:
    message.properties.pop(rng.choice(list(message.properties)), None)


def _own_reply_to(rng: Random, message: RawMessage) -> None:
    """The reply goes to the service itself, as a request."""
    message.properties["reply_to"] = short(message.routing_key[:255])


def _routing_key(rng: Random, message: RawMessage) -> None:
    service = message.routing_key.partition(b".")[0]
    message.routing_key = (service + b"." + _text(rng))[:255]


def _headers(rng: Random, message: RawMessage) -> None:
    entries = [
        (rng.choice(_HEADERS) if rng.random() < 0.7 else _text(rng)[:120], *_field(rng))
        for _ in range(rng.randint(1, 6))
    ]
    message.properties["headers"] = table(*(entry(*each) for each in entries))


def _long(text: bytes) -> bytes:
    return pack(">I", len(text)) + text


def _field(rng: Random, depth: int = 0) -> tuple[bytes, bytes]:
    """Return a value of any type of RabbitMQ, as its letter and bytes."""
    kind = rng.choice("tbBsulIdfDTSxVAF" if depth < 5 else "tIS")
    sizes = {"t": 1, "b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "l": 8, "d": 8, "f": 4, "D": 5, "T": 8}
    match kind:
        case "S" | "x":
            value = _long(_text(rng))
        case "V":
            value = b""
        case "A":
            values = [_field(rng, depth + 1) for _ in range(rng.randint(0, 4))]
            value = _long(b"".join(letter + each for letter, each in values))
        case "F":
            fields = [(_text(rng)[:120], *_field(rng, depth + 1)) for _ in range(rng.randint(0, 4))]
            value = table(*(entry(*each) for each in fields))
        case "d" | "f" if rng.random() < 0.5:
            number = rng.choice([float("nan"), float("inf"), -0.0, 1e30])
            value = pack(">" + kind, number)
        case _:
            value = rng.randbytes(sizes[kind])
    return kind.encode(), value


_SPOILS: list[Callable[[Random, RawMessage], None]] = [
    *(_body, _body, _damaged_body, _random_body, _compressed, _type, _property, _property),
    *(_number, _missing, _own_reply_to, _routing_key, _headers, _headers, _headers),
]

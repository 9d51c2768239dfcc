"""
Serializers: values to bytes and back, and which of them a configuration uses. Pure functions;
only :meth:`SerializerSet.of` imports modules, those that ``SERIALIZERS`` names.

Names and content types are kombu's (``kombu/serialization.py``). There is no pickle.
"""

from __future__ import annotations

import codecs
import importlib
from collections.abc import Callable, Iterable, Mapping
from datetime import time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

from ..config import SerializerOptions, Settings
from ..exceptions import ConfigurationError, MalformedRequest, UnserializableValueError
from . import json
from .objects import fields_of, json_method

__all__ = [
    "JSON",
    "MSGPACK",
    "PLAIN_JSON",
    "RAW",
    "Serializer",
    "SerializerSet",
    "is_charset",
    "yaml",
]


class Serializer(msgspec.Struct, frozen=True):
    """
    One format of bodies.

    Attributes:
        content_encoding: a charset, or ``binary``.
        encode: raises UnserializableValueError and nothing else.
        decode: raises MalformedRequest and nothing else.
    """

    name: str
    content_type: str
    content_encoding: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _guarded(
    name: str,
    content_type: str,
    content_encoding: str,
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
) -> Serializer:
    """Return a serializer of functions that may raise anything."""

    def guarded_encode(value: Any) -> bytes:
        try:
            return encode(value)
        except Exception as exc:
            # The error alone often does not say what it was about, for example an OverflowError.
            kind = type(value).__name__
            raise UnserializableValueError(
                f"cannot encode a {kind} as {name}: {_text(exc)}"
            ) from exc

    def guarded_decode(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception as exc:  # noqa: BLE001 - a body can make a parser raise anything
            raise MalformedRequest(
                f"the body is not the {name} that it claims to be: {_text(exc)}"
            ) from None

    return Serializer(name, content_type, content_encoding, guarded_encode, guarded_decode)


def _text(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deep"
    return " ".join(str(exc).split()) or type(exc).__name__


JSON = Serializer("json", "application/json", "utf-8", json.encode, json.decode)
PLAIN_JSON = Serializer("json", "application/json", "utf-8", json.encode_plain, json.decode)


def _reduce(value: Any) -> Any:
    """Return what represents *value* in a format without its type; TypeError says the remedy."""
    if isinstance(value, Enum):
        return value.value
    if (reducer := json_method(value)) is not None:
        return reducer()
    plain: Any
    # Their subclasses are sent as these; a named tuple is an array.
    for plain in (str, int, float, dict, list, tuple):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, Decimal | UUID | time):
        return str(value)
    return fields_of(value)


MSGPACK = _guarded(
    "msgpack",
    "application/x-msgpack",
    "binary",
    msgspec.msgpack.Encoder(enc_hook=_reduce).encode,
    msgspec.msgpack.Decoder().decode,
)


def yaml() -> Serializer:
    """Return safe YAML. PyYAML is imported here because few programs need it at run time."""
    import yaml as pyyaml

    class Dumper(pyyaml.SafeDumper):
        """Ours alone: a representer that is added to SafeDumper holds for the whole process."""

    Dumper.add_multi_representer(
        object, lambda dumper, value: dumper.represent_data(_reduce(value))
    )

    def encode(value: Any) -> bytes:
        text: str = pyyaml.dump(value, Dumper=Dumper)
        return text.encode("utf-8")

    # The loader in Python, because the one in C does not guard its recursion.
    return _guarded("yaml", "application/x-yaml", "utf-8", encode, pyyaml.safe_load)


def _decode_raw(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


#: Payloads of events and plain messages that have no format: text if it is UTF-8, else bytes. They
#: are only received.
RAW = Serializer("raw", "application/data", "binary", bytes, _decode_raw)
# kombu never decodes these, whatever is accepted (``TRUSTED_CONTENT``). It treats a message without
# a content type as "application/data".
_RAW_CONTENT_TYPES = frozenset({"", "application/data", "application/text"})


class SerializerSet(dict[str | None, Serializer]):
    """
    The serializers that a configuration accepts, by content type; *default* is the one to send
    with.

    A content type that is not a key is looked up again without its parameters (``;
    charset=utf-8``) and case; one that ends in ``+json`` (RFC 6839) is ``application/json``.
    MalformedRequest says which types are accepted.
    """

    def __init__(self, default: Serializer, accepted: Iterable[Serializer]) -> None:
        super().__init__((serializer.content_type, serializer) for serializer in accepted)
        self.default = default

    def __missing__(self, content_type: str | None) -> Serializer:
        bare = _bare(content_type)
        serializer = self.get(bare)
        if serializer is None and bare.endswith("+json"):
            serializer = self.get(JSON.content_type)
        if serializer is None:
            accepted = ", ".join(sorted(map(str, self)))
            came = f"the content type {content_type!r}" if content_type else "no content type"
            raise MalformedRequest(
                f"{came} is not accepted here: send {accepted}, or add it to ACCEPT of the receiver"
            )
        return serializer

    @classmethod
    def of(cls, settings: Settings) -> SerializerSet:
        """
        Return the serializers that the settings ``serializer``, ``ACCEPT``, ``SERIALIZERS`` and
        ``JSON_TYPES`` choose.

        Raises:
            ConfigurationError: an unknown serializer, pickle, or a path that cannot be imported.
        """
        custom = {name: _custom(name, each) for name, each in settings.serializers.items()}
        default = _find(settings.serializer, "serializer", custom, settings)
        return cls(default, [_find(name, "ACCEPT", custom, settings) for name in settings.accepted])

    def for_payload(self, content_type: str | None) -> Serializer:
        """
        Return the serializer of an event or a plain message. Without a content type, or with one
        that only says "data", the payload stays undecoded, as with Nameko.
        """
        if _bare(content_type) in _RAW_CONTENT_TYPES:
            return RAW
        return self[content_type]


def _bare(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def _find(name: str, key: str, custom: Mapping[str, Serializer], settings: Settings) -> Serializer:
    """Return the serializer with that name or content type; *key* is the setting that names it."""
    if name in ("pickle", "application/x-python-serialize"):
        raise ConfigurationError(
            f"{settings.source}: {key} names pickle, which aiorpc does not read or write: a peer "
            "that can publish to the broker could run any code in this process. Set "
            "`serializer: json` (and `ACCEPT: [json, pickle]` in Nameko services while they move)"
        )
    built_in: dict[str, Callable[[], Serializer]] = {
        "json": lambda: PLAIN_JSON if settings.json_types == "plain" else JSON,
        "msgpack": lambda: MSGPACK,
        "yaml": yaml,
    }
    if name in custom:
        return custom[name]
    if name in built_in:
        return built_in[name]()
    for serializer in (*custom.values(), *(make() for make in built_in.values())):
        if serializer.content_type == _bare(name):
            return serializer
    names = ", ".join(sorted({*built_in, *custom}))
    raise ConfigurationError(
        f"{settings.source}: {key} names an unknown serializer {name!r}: there are {names}; others "
        "are registered under SERIALIZERS"
    )


def _custom(name: str, options: SerializerOptions) -> Serializer:
    """Return one of ``SERIALIZERS``. If its encoding is a charset, it reads str, as with kombu."""
    encoder, decoder = (
        _imported(path, f"SERIALIZERS.{name}.{key}")
        for key, path in (("encoder", options.encoder), ("decoder", options.decoder))
    )
    binary = options.content_encoding in ("binary", "ascii-8bit")
    charset = None if binary else options.content_encoding
    if charset is not None and not is_charset(charset):
        raise ConfigurationError(
            f"SERIALIZERS.{name}.content_encoding is {charset!r}, which Python does not know: "
            "name a charset such as utf-8, or binary"
        )

    def encode(value: Any) -> bytes:
        encoded = encoder(value)
        return encoded.encode(charset or "utf-8") if isinstance(encoded, str) else bytes(encoded)

    def decode(data: bytes) -> Any:
        return decoder(data if charset is None else data.decode(charset))

    return _guarded(name, options.content_type, options.content_encoding, encode, decode)


def is_charset(encoding: str) -> bool:
    """Return whether Python can encode text in *encoding*."""
    try:
        codecs.lookup(encoding)
        "".encode(encoding)
    except (LookupError, ValueError):  # a codec that is not a charset, such as hex; or a NUL
        return False
    return True


def _imported(path: str, key: str) -> Callable[[Any], Any]:
    module_name, _, attribute = path.rpartition(".")
    try:
        found: Callable[[Any], Any] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError(
            f"{key} is {path!r}, which cannot be imported: {exc}. It must be the dotted path of a "
            "function, such as my_package.codecs.encode"
        ) from exc
    return found

"""
Serializers convert values to bytes and back; a configuration chooses the serializers. Pure
functions; only :meth:`SerializerSet.of` imports modules, if ``SERIALIZERS`` names them.

Names and content types are the same as kombu's (``kombu/serialization.py``). There is no pickle.
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
from ..logs import one_line
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
    One format for message bodies.

    Attributes:
        content_encoding: a charset, or ``binary``.
        encode: raises only UnserializableValueError.
        decode: raises only MalformedRequest.
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
    """Make a serializer from functions that may raise any exception."""

    def guarded_encode(value: Any) -> bytes:
        try:
            return encode(value)
        except Exception as exc:
            # Some errors do not name the value's type, for example an OverflowError.
            kind = type(value).__name__
            raise UnserializableValueError(
                f"cannot encode a {kind} as {name}: {_text(exc)}"
            ) from exc

    def guarded_decode(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception as exc:  # noqa: BLE001 - a parser may raise any exception
            raise MalformedRequest(f"the body cannot be read as {name}: {_text(exc)}") from None

    return Serializer(name, content_type, content_encoding, guarded_encode, guarded_decode)


def _text(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "the value is nested too deep"
    return one_line(" ".join(str(exc).split()), 500) or type(exc).__name__


JSON = Serializer("json", "application/json", "utf-8", json.encode, json.decode)
PLAIN_JSON = Serializer("json", "application/json", "utf-8", json.encode_plain, json.decode)


def _reduce(value: Any) -> Any:
    """Convert *value* to types that the format has. A TypeError says what to send instead."""
    if isinstance(value, Enum):
        return value.value
    if (reducer := json_method(value)) is not None:
        return reducer()
    plain: Any
    # A value of a subclass is sent as its base type; a named tuple is sent as an array.
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
    """Return a serializer for safe YAML. We import PyYAML here because few programs need it."""
    from .yaml import decode, encoder

    return _guarded("yaml", "application/x-yaml", "utf-8", encoder(_reduce), decode)


def _decode_raw(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


#: For events and plain messages without a format: a payload is a str if it is UTF-8, else bytes.
#: aiorpc receives such messages and never sends them.
RAW = Serializer("raw", "application/data", "binary", bytes, _decode_raw)
# kombu always accepts these content types and never decodes them (``TRUSTED_CONTENT``). It treats a
# message without a content type as "application/data".
_RAW_CONTENT_TYPES = frozenset({"", "application/data", "application/text"})


class SerializerSet(dict[str | None, Serializer]):
    """
    The serializers that a configuration accepts, by content type. *default* encodes the messages
    that we send.

    A lookup ignores the case and the parameters (``; charset=utf-8``) of a content type, and reads
    ``+json`` (RFC 6839) as ``application/json``. For an unknown type it raises MalformedRequest;
    the text names the accepted types.
    """

    def __init__(
        self,
        default: Serializer,
        accepted: Iterable[Serializer],
        find: Callable[[str], Serializer],
    ) -> None:
        super().__init__((serializer.content_type, serializer) for serializer in accepted)
        self.default = default
        self._find = find
        self._named: dict[str, Serializer] = {}

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
        Return the serializers for *settings* (``serializer``, ``ACCEPT``, ``SERIALIZERS`` and
        ``JSON_TYPES``).

        Raises:
            ConfigurationError: an unknown serializer, pickle, or a path that Python cannot import.
        """
        custom = {name: _custom(name, each) for name, each in settings.serializers.items()}
        default = _find(settings.serializer, "serializer", custom, settings)
        accepted = [_find(name, "ACCEPT", custom, settings) for name in settings.accepted]
        return cls(
            default, accepted, lambda name: _find(name, "the option serializer", custom, settings)
        )

    def named(self, name: str) -> Serializer:
        """
        Return the serializer that an option names. It need not be in ``ACCEPT``.

        Raises:
            ConfigurationError: an unknown serializer, or pickle.
        """
        found = self._named.get(name)
        if found is None:
            found = self._named[name] = self._find(name)
        return found

    def for_payload(self, content_type: str | None) -> Serializer:
        """
        Return the serializer for an event or a plain message. As in Nameko, a payload without a
        content type, or with ``application/data`` or ``application/text``, is not decoded.
        """
        if _bare(content_type) in _RAW_CONTENT_TYPES:
            return RAW
        return self[content_type]


def _bare(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def _find(name: str, key: str, custom: Mapping[str, Serializer], settings: Settings) -> Serializer:
    """Return the serializer with this *name* or content type. *key* is the setting's name."""
    if name in ("pickle", "application/x-python-serialize"):
        raise ConfigurationError(
            f"{settings.source}: {key} names pickle, which aiorpc does not support: with pickle, a "
            "peer that can publish to the broker can run any code in this process. Set "
            "`serializer: json` (and `ACCEPT: [json, pickle]` in Nameko services during migration)"
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
        f"{settings.source}: {key} names an unknown serializer {name!r}: use one of {names}, or "
        "register it under SERIALIZERS"
    )


def _custom(name: str, options: SerializerOptions) -> Serializer:
    """Make a serializer of ``SERIALIZERS``. As in kombu, its decoder gets str unless binary."""
    encoder, decoder = (
        _imported(path, f"SERIALIZERS.{name}.{key}")
        for key, path in (("encoder", options.encoder), ("decoder", options.decoder))
    )
    binary = options.content_encoding in ("binary", "ascii-8bit")
    charset = None if binary else options.content_encoding
    if charset is not None and not is_charset(charset):
        raise ConfigurationError(
            f"SERIALIZERS.{name}.content_encoding is {charset!r}, which Python does not know: "
            "use a charset such as utf-8, or binary"
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
    except (LookupError, ValueError):  # not a charset, for example hex or a NUL
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

"""
Values to bytes and back, by content type: the serializers and what the settings choose of them.
Pure functions; the only thing that is read are the modules that ``SERIALIZERS`` names, at start.

Names and content types are kombu's (``kombu/serialization.py``). There is no pickle.
"""

from __future__ import annotations

import codecs
import importlib
import zlib
from collections.abc import Callable, Iterable
from datetime import time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

from ..config import SerializerOptions, Settings
from ..exceptions import ConfigurationError, MalformedRequest, UnserializableValueError
from . import json

__all__ = [
    "JSON",
    "MSGPACK",
    "PLAIN_JSON",
    "RAW",
    "Serializer",
    "SerializerSet",
    "as_utf8",
    "compress",
    "decompress",
    "yaml",
]


class Serializer(msgspec.Struct, frozen=True):
    """
    One way to put values on the wire.

    ``encode`` raises UnserializableValueError and nothing else, ``decode`` MalformedRequest and
    nothing else. ``content_encoding`` is a charset, or ``binary``.
    """

    name: str
    content_type: str
    content_encoding: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


# JSON


JSON = Serializer("json", "application/json", "utf-8", json.encode, json.decode)
PLAIN_JSON = Serializer("json", "application/json", "utf-8", json.encode_plain, json.decode)


# MessagePack


# For their subclasses; a named tuple is an array.
_PLAIN_TYPES: tuple[type, ...] = (str, int, float, dict, list, tuple)


def _reduce(value: Any) -> Any:
    """What stands for a value that a format has no word for; TypeError with a remedy if nothing."""
    if isinstance(value, Enum):
        return value.value
    reducer = getattr(value, "__json__", None)
    if reducer is not None and not isinstance(value, type):
        return reducer()
    for plain in _PLAIN_TYPES:
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, Decimal | UUID | time):
        return str(value)
    return json.fields_of(value)


_encode_msgpack_data = msgspec.msgpack.Encoder(enc_hook=_reduce).encode
_decode_msgpack_data = msgspec.msgpack.Decoder().decode


def _encode_msgpack(value: Any) -> bytes:
    try:
        return _encode_msgpack_data(value)
    except Exception as exc:
        raise _unserializable("msgpack", value, exc) from exc


def _decode_msgpack(data: bytes) -> Any:
    try:
        return _decode_msgpack_data(data)
    except Exception as exc:  # noqa: BLE001 - all that a body can do to a parser
        raise _malformed("msgpack", exc) from None


MSGPACK = Serializer("msgpack", "application/x-msgpack", "binary", _encode_msgpack, _decode_msgpack)


def _unserializable(name: str, value: Any, exc: Exception) -> UnserializableValueError:
    # An OverflowError, say, does not know what it was about.
    return UnserializableValueError(
        f"cannot encode a {type(value).__name__} as {name}: {_text(exc)}"
    )


def _malformed(name: str, exc: Exception) -> MalformedRequest:
    return MalformedRequest(f"the body is not the {name} that it claims to be: {_text(exc)}")


def _text(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deep"
    return " ".join(str(exc).split()) or type(exc).__name__


# YAML


def yaml() -> Serializer:
    """YAML, safe both ways. Made where it is asked for: few programs need PyYAML at run time."""
    import yaml as pyyaml

    # The loader in C does not guard its recursion.
    class Loader(pyyaml.SafeLoader):
        pass

    class Dumper(pyyaml.SafeDumper):
        pass

    Dumper.add_multi_representer(
        object, lambda dumper, value: dumper.represent_data(_reduce(value))
    )

    def encode(value: Any) -> bytes:
        try:
            text: str = pyyaml.dump(value, Dumper=Dumper)
            return text.encode("utf-8")
        except Exception as exc:
            raise _unserializable("yaml", value, exc) from exc

    def decode(data: bytes) -> Any:
        try:
            return pyyaml.load(data, Loader)  # a SafeLoader
        except Exception as exc:  # noqa: BLE001 - all that a body can do to a parser
            raise _malformed("yaml", exc) from None

    return Serializer("yaml", "application/x-yaml", "utf-8", encode, decode)


# Raw


def _encode_raw(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise UnserializableValueError(
        f"a raw message is str or bytes, got {type(value).__name__}: name a serializer for it"
    )


def _decode_raw(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


#: Undecoded payloads of events and plain messages: text if it is UTF-8, else bytes.
RAW = Serializer("raw", "application/data", "binary", _encode_raw, _decode_raw)
# kombu hands these on undecoded whatever is accepted (``TRUSTED_CONTENT``), and takes a message
# without a content type for the first.
_RAW_CONTENT_TYPES = frozenset({"", "application/data", "application/text"})


# What the settings choose


class SerializerSet:
    """The serializers of one configuration: the one to send with, and those that are accepted."""

    def __init__(self, default: Serializer, accepted: Iterable[Serializer]) -> None:
        self.default = default
        self._accepted = {serializer.content_type: serializer for serializer in accepted}
        #: What reads messages that are encoded as ours are, if that is accepted.
        self.usual = self._accepted.get(default.content_type)

    @classmethod
    def of(cls, settings: Settings) -> SerializerSet:
        """
        As ``serializer``, ``ACCEPT``, ``SERIALIZERS`` and ``JSON_TYPES`` have it.

        Raises:
            ConfigurationError: an unknown serializer, pickle, or a path that leads nowhere.
        """
        known = _Known(settings)
        default = known.find(settings.serializer, "serializer")
        return cls(default, [known.find(name, "ACCEPT") for name in settings.accepted])

    def for_content_type(self, content_type: str | None) -> Serializer:
        """
        What reads a message of that content type; parameters (``; charset=utf-8``) do not matter.

        Raises:
            MalformedRequest: it is not accepted. The text says which are.
        """
        serializer = self._accepted.get(content_type or "")
        if serializer is None:
            serializer = self._accepted.get(_bare(content_type))
        if serializer is None:
            accepted = ", ".join(sorted(self._accepted))
            came = f"the content type {content_type!r}" if content_type else "no content type"
            raise MalformedRequest(
                f"{came} is not accepted here: send {accepted}, or add it to ACCEPT of the receiver"
            )
        return serializer

    def for_payload(self, content_type: str | None) -> Serializer:
        """
        As :meth:`for_content_type`, for events and plain messages: what has no content type, or one
        that says "just data", comes undecoded, as with Nameko.
        """
        if _bare(content_type) in _RAW_CONTENT_TYPES:
            return RAW
        return self.for_content_type(content_type)


def _bare(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


class _Known:
    """Every serializer that the settings may name, by name and by content type."""

    def __init__(self, settings: Settings) -> None:
        self._custom = {
            name: _custom(name, options) for name, options in settings.serializers.items()
        }
        self._built_in: dict[str, Callable[[], Serializer]] = {
            "json": lambda: PLAIN_JSON if settings.json_types == "plain" else JSON,
            "msgpack": lambda: MSGPACK,
            "yaml": yaml,
        }
        self._source = settings.source

    def find(self, name: str, key: str) -> Serializer:
        """The serializer of that name or content type, which stands under *key* of the settings."""
        if name in ("pickle", "application/x-python-serialize"):
            raise ConfigurationError(
                f"{self._source}: {key} names pickle, which aiorpc does not read or write: whoever "
                "can publish to the broker could run any code in this process. Set `serializer: "
                "json` (and `ACCEPT: [json, pickle]` in Nameko services while they move)"
            )
        if name in self._custom:
            return self._custom[name]
        if name in self._built_in:
            return self._built_in[name]()
        for serializer in (*self._custom.values(), *(make() for make in self._built_in.values())):
            if serializer.content_type == _bare(name):
                return serializer
        names = ", ".join(sorted({*self._built_in, *self._custom}))
        raise ConfigurationError(
            f"{self._source}: {key} names an unknown serializer {name!r}: there are {names}; "
            "others are registered under SERIALIZERS"
        )


# Serializers of the user's own


def _custom(name: str, options: SerializerOptions) -> Serializer:
    """One of ``SERIALIZERS``. As with kombu it deals in str where its encoding is a charset."""
    encoder, decoder = (
        _imported(path, f"SERIALIZERS.{name}.{key}")
        for key, path in (("encoder", options.encoder), ("decoder", options.decoder))
    )
    charset = None if options.content_encoding in _BINARY else options.content_encoding
    if charset is not None and not _is_charset(charset):
        raise ConfigurationError(
            f"SERIALIZERS.{name}.content_encoding is {charset!r}, which Python does not know: "
            "name a charset such as utf-8, or binary"
        )

    def encode(value: Any) -> bytes:
        try:
            encoded = encoder(value)
            return (
                encoded.encode(charset or "utf-8") if isinstance(encoded, str) else bytes(encoded)
            )
        except Exception as exc:
            raise _unserializable(name, value, exc) from exc

    def decode(data: bytes) -> Any:
        try:
            return decoder(data if charset is None else data.decode(charset))
        except Exception as exc:  # noqa: BLE001 - all that a body can do to a parser
            raise _malformed(name, exc) from None

    return Serializer(name, options.content_type, options.content_encoding, encode, decode)


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


# Charsets and compression


_BINARY = frozenset({"binary", "ascii-8bit"})


def _is_charset(encoding: str) -> bool:
    try:
        codecs.lookup(encoding)
        "".encode(encoding)
    except (LookupError, ValueError):  # codecs that are no charsets, such as hex; a NUL
        return False
    return True


def as_utf8(body: bytes, content_encoding: str | None) -> bytes:
    """
    A text *body* in UTF-8, whatever charset its ``content_encoding`` names. A name that is no
    charset is ignored, as py-amqp does (its ``auto_decode``).

    Raises:
        MalformedRequest: the body is not in the charset that it claims.
    """
    if content_encoding in _USUAL_ENCODINGS or not _is_charset(content_encoding or ""):
        return body
    try:
        return body.decode(content_encoding or "").encode("utf-8", "surrogatepass")
    except UnicodeError as exc:
        raise MalformedRequest(
            f"the body is not the {content_encoding} that it claims to be: {exc}"
        ) from None


_USUAL_ENCODINGS = frozenset({None, "", "utf-8", "UTF-8", "utf8", "us-ascii", "binary"})


# Names and aliases of kombu's ``kombu/compression.py``, where gzip is zlib data and no gzip file.
_COMPRESSIONS = {
    "application/x-gzip": "gzip",
    "gzip": "gzip",
    "zlib": "gzip",
    "application/x-bz2": "bzip2",
    "bzip2": "bzip2",
    "bzip": "bzip2",
}


def compress(body: bytes, compression: str) -> tuple[bytes, str]:
    """
    *body* compressed by ``gzip`` or ``bzip2``, and what the header ``compression`` then says.

    Raises:
        ConfigurationError: an unknown compression.
    """
    match _COMPRESSIONS.get(compression):
        case "gzip":
            return zlib.compress(body), "application/x-gzip"
        case "bzip2":
            return _bz2().compress(body), "application/x-bz2"
        case _:
            raise ConfigurationError(f"unknown compression {compression!r}: take gzip or bzip2")


def decompress(body: bytes, compression: Any, limit: int) -> bytes:
    """
    Undo what a message's header ``compression`` says; at most *limit* bytes may come out.

    Raises:
        MalformedRequest: unknown compression, damaged data, or more than *limit* bytes.
    """
    name = _COMPRESSIONS.get(compression) if isinstance(compression, str) else None
    if name is None:
        raise MalformedRequest(
            f"unknown compression {str(compression)[:40]!r}: known are application/x-gzip and "
            "application/x-bz2"
        )
    # 32: either zlib's own header, or that of a gzip file.
    inflater: Any = (
        zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        if name == "gzip"
        else _bz2().BZ2Decompressor()
    )
    try:
        plain: bytes = inflater.decompress(body, limit + 1)
    except (zlib.error, OSError) as exc:
        raise MalformedRequest(f"the body is not the {name} it claims to be: {exc}") from None
    if len(plain) > limit:
        raise MalformedRequest(
            f"the body is larger than {limit} bytes once decompressed (MAX_MESSAGE_SIZE)"
        )
    if not inflater.eof:
        raise MalformedRequest(f"the body is cut short: its {name} data has no end")
    return plain


def _bz2() -> Any:
    import bz2  # some builds of Python lack it, and few programs need it

    return bz2

"""
What single keys need beyond their type: texts that are checked, words that YAML misreads, spelling.

Decodes a mapping with YAML's keys into attributes of the settings, whose fields the caller passes.
No I/O. Imports ``exceptions``, msgspec, ``broker_url`` and ``decoding``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import NoneType
from typing import Any, get_args

import msgspec

from ..exceptions import ConfigurationError
from .broker_url import parse_broker_urls
from .decoding import Decoder, closest

__all__ = ["URL_KEYS", "attributes_of", "copied", "parse_address"]

URL_KEYS = frozenset({"AMQP_URI", "DB_URI", "DB_URIS"})
# Errors do not quote values under these.
_CONFIDENTIAL_KEYS = URL_KEYS | {
    "DB_ENGINE_OPTIONS",
    "DB_SESSION_OPTIONS",
    "LOGGING",
    "TRANSPORT_OPTIONS",
}

# YAML 1.1 reads the plain words `off` and `on` as booleans.
_BOOLEAN_WORDS: Mapping[str, Mapping[bool, str]] = {
    "VALIDATE_ARGUMENTS": {False: "off", True: "strict"}
}

# Settings of earlier versions. A configuration that has one gets a warning, see Settings.notes.
_FORMER_KEYS = {"AMQP_FAST_LANE"}

# Likely mistakes that no comparison of letters finds. The first would leave a connection without
# TLS.
_OTHER_NAMES = {"AMQP_TLS": "AMQP_SSL", "PREFETCH": "PREFETCH_COUNT"}


def attributes_of(
    given: Mapping[str, Any],
    known: Mapping[str, msgspec.structs.FieldInfo],
    source: str,
    *,
    unset: Collection[str] = (),
    own_keys: Collection[str] = (),
    tls: bool = False,
    uri: str | None = None,
) -> dict[str, Any]:
    """
    Decode what is *given* under *known* keys into attributes of the settings.

    *unset* are the environment variables that had no value. *own_keys* are the user's own although
    they resemble a known key. *tls* and *uri* are those of the settings to be changed, if any.

    Raises:
        ConfigurationError: names *source*, the key, and what was expected.
    """
    decoder = Decoder(source, _CONFIDENTIAL_KEYS, unset)
    attributes = {
        field.name: _decode_field(decoder, field, given[key])
        for key, field in known.items()
        if key in given
    }
    _refuse_misspelt_keys(decoder, given, known, {*own_keys, *attributes.get("extra_keys", ())})
    _check_texts(decoder, attributes, tls, uri)
    return attributes


def _decode_field(decoder: Decoder, field: msgspec.structs.FieldInfo, value: Any) -> Any:
    key = field.encode_name
    if isinstance(value, bool) and key in _BOOLEAN_WORDS:
        value = _BOOLEAN_WORDS[key][value]
    if key == "AMQP_SSL" and value == {}:
        return None  # as in Nameko, where it is falsy
    if value is None and key != "AMQP_URI" and NoneType not in get_args(field.type):
        has_factory = field.default is msgspec.NODEFAULT
        return field.default_factory() if has_factory else field.default
    return decoder.convert(value, field.type, key)


def _refuse_misspelt_keys(
    decoder: Decoder,
    given: Mapping[Any, Any],
    known: Collection[str],
    own_keys: Collection[str],
) -> None:
    for key in given:
        if not isinstance(key, str):
            raise decoder.error(
                f"key {key!r} is {type(key).__name__}, but keys are strings: put it in quotes"
            )
        if key in known or key in _FORMER_KEYS or key in own_keys:
            continue
        if likely := _OTHER_NAMES.get(key) or closest(key, known):
            raise decoder.error(
                f"unknown key {key}: did you mean {likely}? "
                f"(If it is a key of your own, add EXTRA_KEYS: [{key}])"
            )


def _check_texts(
    decoder: Decoder, attributes: Mapping[str, Any], tls: bool, uri: str | None
) -> None:
    """Check the URL of the broker and the address, which are more than a str."""
    try:
        if attributes.keys() & {"amqp_uri", "amqp_ssl"}:
            uri = attributes.get("amqp_uri", uri)
            tls = bool(attributes["amqp_ssl"]) if "amqp_ssl" in attributes else tls
            if uri is not None:
                parse_broker_urls(uri, tls=tls)
        if "web_server_address" in attributes:
            parse_address(attributes["web_server_address"])
    except ConfigurationError as error:
        raise decoder.error(str(error)) from None


def parse_address(text: str | int) -> tuple[str, int]:
    """Read ``[address:]port`` as (address, port). No address is ``""``: all interfaces."""
    address, _, port = str(text).rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigurationError(
            f"WEB_SERVER_ADDRESS must be [address:]port, such as 0.0.0.0:8000, got {text!r}"
        )
    return address.removeprefix("[").removesuffix("]"), int(port)


def copied(mapping: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Copy the containers of *mapping*, so that nobody else can change them."""

    def copy(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: copy(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copy(item) for item in value]
        return value

    try:
        return {key: copy(value) for key, value in mapping.items()}
    except RecursionError:
        raise ConfigurationError(
            f"{source}: a value contains itself: look for an alias (*name) in the YAML"
        ) from None

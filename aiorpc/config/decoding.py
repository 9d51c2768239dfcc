"""
Decodes a mapping with YAML's keys into attributes of the settings. Errors name the wrong key.

:class:`Decoder` converts values by their types, for any setting. The functions below handle single
keys: they check texts, correct words that YAML misreads, and find misspelt keys.

No I/O. Imports ``exceptions``, msgspec, ``broker_url`` and ``middleware``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from ..exceptions import ConfigurationError
from .broker_url import parse_broker_urls
from .middleware import read_entry

__all__ = [
    "IN_QUOTES",
    "URL_KEYS",
    "Decoder",
    "attributes_of",
    "closest",
    "copied",
    "describe",
    "has_variable",
    "parse_address",
]

URL_KEYS = frozenset({"AMQP_URI", "DB_URI", "DB_URIS"})
#: The end of the error for a value with a variable that was not substituted.
IN_QUOTES = (
    "holds a variable, ${NAME}, that was not substituted: in a file, remove the quotes around it, "
    'or write !env_var "${NAME}"; elsewhere read os.environ'
)
# Errors do not quote values of these keys.
_CONFIDENTIAL_KEYS = (
    *URL_KEYS,
    *("DB_ENGINE_OPTIONS", "DB_SESSION_OPTIONS", "LOGGING", "TRANSPORT_OPTIONS"),
)
# YAML 1.1 reads the plain words `off` and `on` as booleans.
_BOOLEAN_WORDS = {"VALIDATE_ARGUMENTS": {False: "off", True: "strict"}}
# Keys of earlier versions. Settings.notes has a warning for a configuration with such a key.
_FORMER_KEYS = {"AMQP_FAST_LANE"}
# Likely mistakes that ``closest`` does not find. With AMQP_TLS ignored, a connection would have no
# TLS.
_OTHER_NAMES = {"AMQP_TLS": "AMQP_SSL", "PREFETCH": "PREFETCH_COUNT"}
_TYPE_NAMES = {bool: "true or false", float: "number", NoneType: "null", dict: "mapping"}


class Decoder:
    """
    Converts values to types. An error names the path of the value, such as ``DB_URIS['x:Base']``.

    Errors begin with ``source``, and do not quote values of ``confidential`` top-level keys.
    ``unset`` has the environment variables without a value; an error about null names them.
    """

    def __init__(
        self, source: str, confidential: tuple[str, ...] = (), unset: Collection[str] = ()
    ) -> None:
        self.source = source
        self.confidential = confidential
        self.unset = unset

    def convert(self, value: Any, expected: Any, path: str) -> Any:
        """Convert ``value`` to the type ``expected``. Raises ``ConfigurationError``."""
        if expected is Any:
            return value
        if isinstance(value, enum.Enum):
            value = value.value  # ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_2
        if isinstance(value, dict) and (struct := _arm(expected, msgspec.Struct)):
            return self._convert_struct(value, struct, path)
        if isinstance(value, dict) and (mapping := _arm(expected, dict)):
            key_type, item_type = get_args(mapping)
            return {
                self.convert(key, key_type, f"key {key!r} of {path}"): self.convert(
                    item, item_type, f"{path}[{key!r}]"
                )
                for key, item in value.items()
            }
        if isinstance(value, list) and (sequence := _arm(expected, list)):
            (item_type,) = get_args(sequence)
            return [
                self.convert(item, item_type, f"{path}[{index}]")
                for index, item in enumerate(value)
            ]
        try:
            return msgspec.convert(value, expected)
        except msgspec.ValidationError:
            got = self._show(value, path)
            raise self.error(f"{path} must be {describe(expected)}, got {got}") from None

    def error(self, text: str) -> ConfigurationError:
        """Return a ``ConfigurationError`` with the source and *text*."""
        return ConfigurationError(f"{self.source}: {text}")

    def _convert_struct(
        self, value: Mapping[Any, Any], struct: type[msgspec.Struct], path: str
    ) -> msgspec.Struct:
        fields = {field.name: field for field in msgspec.structs.fields(struct)}
        for name in value:
            if name not in fields:
                # For x-max-length, too.
                close = closest(str(name).removeprefix("x-").replace("-", "_"), fields)
                remedy = f"did you mean {close}?" if close else f"known are {', '.join(fields)}"
                raise self.error(f"unknown key {name!r} in {path}: {remedy}")
        missing = [name for name, field in fields.items() if field.required and name not in value]
        if missing:
            raise self.error(f"{path} lacks {', '.join(missing)}")
        converted = {
            name: self.convert(item, fields[name].type, f"{path}.{name}")
            for name, item in value.items()
        }
        return struct(**converted)

    def _show(self, value: Any, path: str) -> str:
        """Describe a value by type and text, or only by type if the value is secret or long."""
        if value is None:
            names = ", ".join(sorted(set(self.unset)))
            hint = f" (not set in the environment, and without a default: {names})"
            return f"null{hint if names else ''}"
        if isinstance(value, str) and has_variable(value):
            return f"a str that {IN_QUOTES}"
        text = repr(value)
        is_quotable = (
            isinstance(value, str | int | float)
            and len(text) <= 60
            and "://" not in text
            and not path.startswith(self.confidential)
        )
        return f"{type(value).__name__} {text}" if is_quotable else type(value).__name__


def has_variable(text: str) -> bool:
    """Whether *text* has ``${NAME}`` or ``${NAME:default}``."""
    return re.search(r"\$\{[^{}:\s]+[:}]", text) is not None


def closest(key: str, known: Collection[str]) -> str | None:
    """Return the known key that resembles *key* most, or None."""
    from difflib import get_close_matches

    by_lower_case = {name.lower(): name for name in known}
    # At 0.83, AMQP_URL and DB_URL count as misspelt, but AMQP_USER and TCP_TIMEOUT do not.
    matches = get_close_matches(key.lower(), by_lower_case, n=1, cutoff=0.83)
    return by_lower_case[matches[0]] if matches else None


def _arm(expected: Any, kind: type) -> Any:
    """Return *expected*, or the member of this union, of the *kind* dict, list or struct."""
    arms = get_args(expected) if get_origin(expected) in {UnionType, Union} else (expected,)
    for arm in arms:
        cls = get_origin(arm) or arm
        if isinstance(cls, type) and issubclass(cls, kind):
            return arm
    return None


def describe(expected: Any) -> str:
    """Describe a type in YAML's words, such as ``int >= 1 or null``."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Annotated:
        base, meta = arguments
        lower = f" >= {meta.ge}" if meta.ge is not None else f" > {meta.gt}"
        upper = f" and <= {meta.le}" if meta.le is not None else ""
        why = f" ({meta.description})" if meta.description is not None else ""
        return f"{describe(base)}{lower}{upper}{why}"
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is list:
        return f"list of {describe(arguments[0])}"
    if origin is dict:
        return "mapping" if arguments[1] is Any else f"mapping to {describe(arguments[1])}"
    if arguments:  # a union: null comes last
        return " or ".join(map(describe, sorted(arguments, key=lambda arm: arm is NoneType)))
    if isinstance(expected, type) and issubclass(expected, msgspec.Struct):
        return f"mapping with {', '.join(expected.__struct_fields__)}"
    return _TYPE_NAMES.get(expected) or str(expected.__name__)


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
    Decode the values of *known* keys in *given* into attributes of the settings.

    *unset* has the environment variables without a value. *own_keys* has keys of the user that
    resemble a known key. *tls* and *uri* come from the settings to change, if any.

    Raises:
        ConfigurationError: the error names *source*, the key, and the expected type.
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
        return None  # as in Nameko, where {} is falsy
    if value is None and key != "AMQP_URI" and NoneType not in get_args(field.type):
        has_factory = field.default is msgspec.NODEFAULT
        return field.default_factory() if has_factory else field.default
    return decoder.convert(value, field.type, key)


def _refuse_misspelt_keys(
    decoder: Decoder, given: Mapping[Any, Any], known: Collection[str], own_keys: Collection[str]
) -> None:
    for key in given:
        if not isinstance(key, str):
            kind = type(key).__name__
            raise decoder.error(f"key {key!r} is {kind}, but keys are strings: put it in quotes")
        if key in known or key in _FORMER_KEYS or key in own_keys:
            continue
        if likely := _OTHER_NAMES.get(key) or closest(key, known):
            raise decoder.error(
                f"unknown key {key}: did you mean {likely}? "
                f"(For a key of your own, add EXTRA_KEYS: [{key}])"
            )


def _check_texts(
    decoder: Decoder, attributes: Mapping[str, Any], tls: bool, uri: str | None
) -> None:
    """Check the syntax of the broker's URL, of the addresses, and of MIDDLEWARE."""
    try:
        uri = attributes.get("amqp_uri", uri)
        if uri is not None and attributes.keys() & {"amqp_uri", "amqp_ssl"}:
            parse_broker_urls(uri, tls=bool(attributes.get("amqp_ssl", tls)))
        for key in ("web_server_address", "admin_address"):
            if attributes.get(key) is not None:
                parse_address(attributes[key], key.upper())
        for index, entry in enumerate(attributes.get("middleware", ())):
            read_entry(entry, f"MIDDLEWARE[{index}]")
    except ConfigurationError as error:
        raise decoder.error(str(error)) from None


def parse_address(text: str | int, key: str = "WEB_SERVER_ADDRESS") -> tuple[str, int]:
    """
    Read ``[address:]port`` as (address, port). The address ``""`` stands for all interfaces.

    Args:
        key: the setting that has the address, for the error.

    Raises:
        ConfigurationError: *text* is no address.
    """
    address, _, port = str(text).rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigurationError(
            f"{key} must be [address:]port, such as 0.0.0.0:8000, got {text!r}"
        )
    return address.removeprefix("[").removesuffix("]"), int(port)


def copied(mapping: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Copy *mapping* with its dicts and lists, so that the caller cannot change the copy."""

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

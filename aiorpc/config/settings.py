"""
The settings: which there are, their types and defaults, and the ways to make them from what users
pass as config. Imports ``exceptions``, msgspec and the modules beside it.

Keys that aiorpc does not know are the user's own, as in Nameko (``self.config["MY_KEY"]``), unless
they look like a misspelt one of ours: that is an error, since a setting that silently does nothing
is found at night. A key of yours that merely resembles one of ours is listed in ``EXTRA_KEYS``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping
from types import MappingProxyType, NoneType
from typing import Annotated, Any, Literal, get_args

import msgspec

from ..exceptions import ConfigurationError
from .broker_url import BrokerUrl, parse_broker_urls
from .decoding import Decoder, closest
from .files import Environment, parse_yaml, read_file
from .redaction import redact, redact_urls

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
#: What fits the 16 bits that AMQP has for it.
_MOST_PREFETCHED = 65535
Prefetched = Annotated[int, msgspec.Meta(ge=1, le=_MOST_PREFETCHED)]
# Below 30 years: no timer takes an infinity, and null says "for ever" where that is allowed.
Seconds = Annotated[float, msgspec.Meta(gt=0, lt=1e9)]
SecondsOrZero = Annotated[float, msgspec.Meta(ge=0, lt=1e9)]

# Nameko writes these in lower case and all other keys in upper case.
_LOWER_CASE_KEYS = frozenset({"rpc_exchange", "serializer", "max_workers", "parent_calls_tracked"})

_URL_KEYS = frozenset({"AMQP_URI", "DB_URI", "DB_URIS"})
# Values under these are not quoted in errors.
_CONFIDENTIAL_KEYS = _URL_KEYS | {
    "DB_ENGINE_OPTIONS",
    "DB_SESSION_OPTIONS",
    "LOGGING",
    "TRANSPORT_OPTIONS",
}

# YAML 1.1 reads the plain words `off` and `on` as booleans.
_BOOLEAN_WORDS: Mapping[str, Mapping[bool, str]] = {
    "VALIDATE_ARGUMENTS": {False: "off", True: "strict"}
}

# Settings of earlier versions: a configuration that has one gets a warning. See Settings.notes.
_FORMER_KEYS = {"AMQP_FAST_LANE"}

# What people write for ours and no comparison of letters would find. The first would leave a
# connection in the clear.
_OTHER_NAMES = {"AMQP_TLS": "AMQP_SSL", "PREFETCH": "PREFETCH_COUNT"}


class SerializerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``SERIALIZERS``; ``encoder`` and ``decoder`` are dotted import paths."""

    encoder: str
    decoder: str
    content_type: str
    content_encoding: str = "utf-8"


class TlsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    ``AMQP_SSL`` as a mapping: py-amqp's names, plus ``check_hostname``. Paths are of PEM files.

    ``cert_reqs`` also takes the names of :mod:`ssl` (Nameko raises ``TypeError`` for those).
    """

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    cert_reqs: Literal[0, 1, 2, "CERT_NONE", "CERT_OPTIONAL", "CERT_REQUIRED"] = 2
    #: The name that the broker's certificate must bear, where it is not the host of the URL.
    server_hostname: str | None = None
    #: None: whenever a certificate is required.
    check_hostname: bool | None = None
    ciphers: str | None = None
    ssl_version: (
        Literal[2, 5, 16, "PROTOCOL_TLS", "PROTOCOL_TLS_CLIENT", "PROTOCOL_TLSv1_2"] | None
    ) = None
    tls_minimum_version: Literal[771, 772, "TLSv1_2", "TLSv1_3"] | None = None
    tls_maximum_version: Literal[771, 772, "TLSv1_2", "TLSv1_3"] | None = None


def _yaml_key(attribute: str) -> str:
    return attribute if attribute in _LOWER_CASE_KEYS else attribute.upper()


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename=_yaml_key):
    """
    The configuration of a process, decoded. An attribute is the YAML key in lower case.

    Times are in seconds, sizes in bytes. ``null`` means the default, except where None is listed
    here as a value of its own, and for ``AMQP_URI``, where it is an error (an environment variable
    that is not set must not lead to the wrong broker).

    Make one with :func:`load`, :func:`from_mapping` or :func:`resolve`, which check every value;
    the constructor itself trusts its caller. Its ``repr`` shows no secrets.
    """

    # The broker
    #: One URL, or several with ``;`` between them, tried in turn: see :func:`parse_broker_urls`.
    amqp_uri: str = "amqp://guest:guest@localhost/"
    #: True: TLS, verified against the system's authorities. None, False, {}: by the URL's scheme.
    amqp_ssl: TlsOptions | bool | None = None
    #: SASL mechanism; None is PLAIN.
    login_method: str | None = None
    #: None and 0 switch heartbeats off. A ``heartbeat`` in the URL's query wins.
    heartbeat: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = 10
    #: Read and without effect: see :attr:`notes`.
    transport_options: dict[str, Any] = {}

    # The wire
    rpc_exchange: str = "nameko-rpc"
    #: Name of the serializer of requests, events and messages.
    serializer: str = "json"
    #: Names or content types that are taken from the wire; None: see :attr:`accepted`.
    accept: list[str] | None = None
    serializers: dict[str, SerializerOptions] = {}
    #: ``typed``: dates, UUID, Decimal and bytes arrive as themselves (as between kombu >= 5.3);
    #: ``plain``: they go as plain strings (as between older ones).
    json_types: Literal["typed", "plain"] = "typed"
    #: How many call ids travel along with a call.
    parent_calls_tracked: AtLeastOne = 10
    auto_delete_event_exchanges: bool = False
    declare_event_exchanges: bool = True
    #: Largest encoded body, in bytes, that this process sends or decodes. A larger one is refused
    #: before it is sent, and answered with an error instead of being decoded. None: no limit but
    #: the broker's (``max_message_size``: 128 MiB in RabbitMQ 3.x, 16 MiB from 4.0).
    max_message_size: AtLeastOne | None = 64 * 1024 * 1024

    # Calls
    #: How long a call waits for its answer unless told otherwise; None: for ever.
    rpc_timeout: Seconds | None = 30.0
    #: ``durable``: persistent and confirmed; ``fast``: neither.
    call_profile: Literal["durable", "fast"] = "durable"
    #: Acknowledge a request only when the broker has confirmed the reply: for clusters.
    confirm_replies: bool = False
    #: ``lax`` also takes "5" for an int.
    validate_arguments: Literal["strict", "lax", "off"] = "strict"
    #: How far the clocks of two hosts may differ before a request counts as late.
    clock_tolerance: SecondsOrZero = 5.0

    # Hosting
    #: Calls and events that a container runs at a time.
    max_workers: AtLeastOne = 100
    #: None: as many as ``max_workers``, see :attr:`prefetch`.
    prefetch_count: Prefetched | None = None
    #: Threads for ``def`` methods; None: as many as ``max_workers``, see :attr:`sync_threads`.
    sync_workers: AtLeastOne | None = None
    #: Deliveries of one message before it is parked as poison.
    max_attempts: AtLeastOne = 5
    #: Bound of a drain; what runs longer is cancelled.
    shutdown_timeout: SecondsOrZero = 25.0
    #: Bound of closing dependencies after a cancelled call.
    cleanup_timeout: SecondsOrZero = 5.0
    #: Answer ``aiorpc ls``, by a queue more per service.
    discovery: bool = True
    #: ``[address:]port``, see :func:`parse_address`.
    web_server_address: str | int = "0.0.0.0:8000"
    #: For ``logging.config.dictConfig``.
    logging: dict[str, Any] | None = None
    #: Dotted path of a subclass of ``ServiceContainer``.
    service_container_cls: str | None = None

    # Databases
    #: ``{"service_name:BaseName": "postgresql://..."}``
    db_uris: dict[str, str] = {}
    #: One URL for every base, or the same mapping as ``db_uris``.
    db_uri: str | dict[str, str] | None = None
    db_engine_options: dict[str, Any] = {}
    db_session_options: dict[str, Any] = {}

    #: Keys of the user's own that look like one of these and are not.
    extra_keys: list[str] = []

    #: Where it came from, for messages: a path, or ``config``. No YAML key.
    source: str = "config"
    _given: dict[str, Any] = {}

    @property
    def raw(self) -> Mapping[str, Any]:
        """What was given, after substitution, read-only and without defaults: Nameko's config."""
        return MappingProxyType(self._given)

    @property
    def extra(self) -> Mapping[str, Any]:
        """The user's own keys among :attr:`raw`."""
        return {key: value for key, value in self._given.items() if key not in _fields()}

    @property
    def accepted(self) -> tuple[str, ...]:
        """Serializers (or content types) taken from the wire; Nameko's default: the own one."""
        return (self.serializer,) if self.accept is None else tuple(self.accept)

    @property
    def prefetch(self) -> int:
        """Messages that the broker hands out before the first is acknowledged."""
        return self.prefetch_count or min(self.max_workers, _MOST_PREFETCHED)

    @property
    def sync_threads(self) -> int:
        """Threads for ``def`` methods."""
        return self.sync_workers or self.max_workers

    @property
    def broker_urls(self) -> tuple[BrokerUrl, ...]:
        """``AMQP_URI`` parsed, with TLS where ``AMQP_SSL`` asks for it."""
        return parse_broker_urls(self.amqp_uri, tls=bool(self.amqp_ssl))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the log about what was given and has no effect."""
        notes = []
        if "AMQP_FAST_LANE" in self._given:
            notes.append("AMQP_FAST_LANE has no effect any more. Delete the key")
        if self.transport_options:
            notes.append(
                "TRANSPORT_OPTIONS has no effect: aiorpc reconnects until it is stopped, with its "
                "own backoff"
            )
        return tuple(f"{self.source}: {note}" for note in notes)

    def with_defines(self, defines: Mapping[str, Any], source: str = "--define") -> Settings:
        """
        A copy in which these YAML keys replace whole values (``A.B`` is a key, not a path).

        Raises ``ConfigurationError`` naming ``source``.
        """
        given = _copied(defines, source)
        attributes = _attributes(
            given, source, own_keys=self.extra_keys, tls=bool(self.amqp_ssl), uri=self.amqp_uri
        )
        return msgspec.structs.replace(self, **attributes, _given={**self._given, **given})

    def __repr__(self) -> str:
        return f"Settings({self.source!r}, {redacted(self, defaults=True)!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own would show the passwords in a shell that prints with rich.
        return list(redacted(self, defaults=True).items())


@functools.cache
def _fields() -> Mapping[str, msgspec.structs.FieldInfo]:
    """YAML key -> field."""
    fields = msgspec.structs.fields(Settings)
    return {field.encode_name: field for field in fields if field.name not in {"source", "_given"}}


def load(
    path: str | os.PathLike[str],
    environ: Mapping[str, str] | None = None,
    *,
    replaced: Collection[str] = (),
) -> Settings:
    """
    Read a YAML file (or TOML, by its suffix) after substituting environment variables.

    Plain scalars and keys may hold ``${NAME}`` and ``${NAME:default}``, also nested
    (``${A:${B}}``); the result is read as YAML, so ``42`` is an int and what is empty or missing
    is null. Quoted scalars are left alone; ``!env_var "${A}"`` forces substitution, and
    ``!raw_env_var "${A:007}"`` keeps the result a string. In TOML, where all strings are quoted,
    each string that holds ``${`` is treated as a plain scalar.

    What the file says of ``replaced`` keys is not decoded: ``with_defines`` follows.

    Raises ``ConfigurationError`` naming the file, the key, and what was expected.
    """
    source = os.fspath(path)
    environment = Environment(environ)
    content = read_file(source, environment)
    if content is None:  # an empty file
        content = {}
    if not isinstance(content, Mapping):
        raise ConfigurationError(
            f"{source} must hold a mapping of keys to values, got {type(content).__name__}"
        )
    return _settings(content, source, environment, replaced)


def from_mapping(mapping: Mapping[str, Any], source: str = "config") -> Settings:
    """
    Decode a mapping with YAML's keys. Nothing is substituted: its values are Python's already.

    Raises ``ConfigurationError`` naming ``source``, the key, and what was expected.
    """
    return _settings(mapping, source)


def resolve(config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None) -> Settings:
    """
    Whatever users pass as config: a broker's URL (it has ``://``), the path of a file, a mapping,
    settings, or None for the defaults. Raises ``ConfigurationError``.
    """
    if config is None:
        return Settings()
    if isinstance(config, Settings):
        return config
    if isinstance(config, Mapping):
        return from_mapping(config)
    if isinstance(config, str) and "://" in config:
        return from_mapping({"AMQP_URI": config})
    if isinstance(config, str | os.PathLike):
        return load(config)
    raise ConfigurationError(
        "config must be a URL such as amqp://guest:guest@localhost/, a mapping, Settings or the "
        f"path of a file, got {type(config).__name__}"
    )


def parse_define(text: str, environ: Mapping[str, str] | None = None) -> tuple[str, Any]:
    """``KEY=VALUE`` of a command line, VALUE read as YAML; ``KEY`` alone is true."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not key:
        raise ConfigurationError("--define needs KEY=VALUE, or KEY for true; the key is missing")
    if not equals:
        return key, True
    environment, source = Environment(environ), f"--define {key}"
    parsed = parse_yaml(value, environment, source)
    _refuse_incomplete(Decoder(source), {key: parsed}, environment)
    return key, parsed


def parse_address(text: str | int) -> tuple[str, int]:
    """``[address:]port`` as (address, port); no address is ``""``: all interfaces."""
    address, _, port = str(text).rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigurationError(
            f"WEB_SERVER_ADDRESS must be [address:]port, such as 0.0.0.0:8000, got {text!r}"
        )
    return address.removeprefix("[").removesuffix("]"), int(port)


def redacted(settings: Settings, *, defaults: bool = False) -> dict[str, Any]:
    """
    The configuration by YAML key, for people's eyes: passwords in URLs, and whatever is named like
    a password, a secret, a token or a key, at any depth, is ``***``.

    ``defaults`` adds the settings that were not given, as they were decoded.
    """
    shown = dict(settings.raw)
    if defaults:
        decoded = {
            key: msgspec.to_builtins(getattr(settings, field.name), enc_hook=repr)
            for key, field in _fields().items()
        }
        shown = {**decoded, **settings.extra}
    return {
        key: redact_urls(value) if key in _URL_KEYS else redact(key, value, known=_fields())
        for key, value in shown.items()
    }


def _settings(
    mapping: Mapping[str, Any],
    source: str,
    environment: Environment | None = None,
    replaced: Collection[str] = (),
) -> Settings:
    given = _copied(mapping, source)
    read = {key: value for key, value in given.items() if key not in replaced}
    attributes = _attributes(read, source, environment, tls="AMQP_SSL" in replaced)
    return Settings(**attributes, source=source, _given=given)


def _copied(mapping: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The containers copied, so that nobody else can change them; the leaves as they are."""

    def copied(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: copied(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copied(item) for item in value]
        return value

    try:
        return {key: copied(value) for key, value in mapping.items()}
    except RecursionError:
        raise ConfigurationError(
            f"{source}: a value contains itself, by an alias of YAML perhaps"
        ) from None


def _attributes(
    given: Mapping[str, Any],
    source: str,
    environment: Environment | None = None,
    own_keys: Collection[str] = (),
    *,
    tls: bool = False,
    uri: str | None = None,
) -> dict[str, Any]:
    """
    What was given under known keys, as attributes of :class:`Settings`; ``tls`` and ``uri`` are of
    the settings that it replaces.
    """
    decoder = Decoder(source, _CONFIDENTIAL_KEYS, environment.unset if environment else ())
    if environment is not None:
        _refuse_incomplete(decoder, given, environment)
    attributes = {
        field.name: _decode_field(decoder, field, given[key])
        for key, field in _fields().items()
        if key in given
    }
    _refuse_misspelt_keys(decoder, given, {*own_keys, *attributes.get("extra_keys", ())})
    _check_texts(decoder, attributes, tls, uri)
    return attributes


def _refuse_incomplete(
    decoder: Decoder, given: Mapping[str, Any], environment: Environment
) -> None:
    """A URL with a hole in it leads somewhere: to localhost, to guest."""
    for key in _URL_KEYS & given.keys():
        value = given[key]
        several = value if isinstance(value, Mapping) else {None: value}
        for name, url in several.items():
            if isinstance(url, str) and (missing := environment.incomplete.get(url)):
                path = key if name is None else f"{key}[{name!r}]"
                raise decoder.error(
                    f"{path} is incomplete: not set in the environment, and without a default: "
                    f"{', '.join(sorted(set(missing)))}"
                )


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
    decoder: Decoder, given: Mapping[Any, Any], own_keys: Collection[str]
) -> None:
    for key in given:
        if not isinstance(key, str):
            raise decoder.error(
                f"key {key!r} is {type(key).__name__}, but keys are strings: put it in quotes"
            )
        if key in _fields() or key in _FORMER_KEYS or key in own_keys:
            continue
        if likely := _OTHER_NAMES.get(key) or closest(key, _fields()):
            raise decoder.error(
                f"unknown key {key}: did you mean {likely}? "
                f"(If it is a key of your own, add EXTRA_KEYS: [{key}])"
            )


def _check_texts(
    decoder: Decoder, attributes: Mapping[str, Any], tls: bool, uri: str | None
) -> None:
    """What a type cannot say."""
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

"""
The settings as values: which there are, their types, their defaults. No I/O.

A key that aiorpc does not know is the user's own, as in Nameko (``self.config["MY_KEY"]``), unless
it looks like a misspelt key of ours. That is an error, because a setting without effect stays
unnoticed for long. ``EXTRA_KEYS`` lists keys of the user's own that only resemble ours.

Imports ``exceptions``, msgspec and the modules beside it, except ``loading`` and ``tls``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from .broker_url import BrokerUrl, parse_broker_urls
from .decoding import URL_KEYS, attributes_of, copied
from .redaction import redact, redact_urls

__all__ = ["SerializerOptions", "Settings", "TlsOptions", "fields", "redacted"]

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
#: AMQP has 16 bits for the prefetch count.
_MOST_PREFETCHED = 65535
Prefetched = Annotated[int, msgspec.Meta(ge=1, le=_MOST_PREFETCHED)]
# Less than 30 years, because no timer takes infinity. Where it is allowed, null is unlimited.
Seconds = Annotated[float, msgspec.Meta(gt=0, lt=1e9)]
SecondsOrZero = Annotated[float, msgspec.Meta(ge=0, lt=1e9)]

# Nameko writes these in lower case and all other keys in upper case.
_LOWER_CASE_KEYS = frozenset({"rpc_exchange", "serializer", "max_workers", "parent_calls_tracked"})


class SerializerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``SERIALIZERS``. ``encoder`` and ``decoder`` are dotted import paths."""

    encoder: str
    decoder: str
    content_type: str
    content_encoding: str = "utf-8"


class TlsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    ``AMQP_SSL`` as a mapping: py-amqp's names, and ``check_hostname``. Files are in PEM format.

    ``cert_reqs`` also takes the names of :mod:`ssl` (Nameko raises ``TypeError`` for those).
    """

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    cert_reqs: Literal[0, 1, 2, "CERT_NONE", "CERT_OPTIONAL", "CERT_REQUIRED"] = 2
    #: The name in the broker's certificate, if it is not the host of the URL.
    server_hostname: str | None = None
    #: None: yes if a certificate is required.
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

    Times are in seconds, sizes in bytes. ``null`` means the default, except where the type below
    allows None. For ``AMQP_URI`` it is an error: an unset environment variable must not lead to the
    wrong broker.

    :func:`load`, :func:`from_mapping` and :func:`resolve` check every value; the constructor checks
    none. The ``repr`` shows no secrets.
    """

    # The broker
    #: One URL, or several with ``;`` between them, to try in turn: see :func:`parse_broker_urls`.
    amqp_uri: str = "amqp://guest:guest@localhost/"
    #: True: TLS, verified by the system's authorities. None, False, {}: the URL's scheme decides.
    amqp_ssl: TlsOptions | bool | None = None
    #: SASL mechanism; None is PLAIN.
    login_method: str | None = None
    #: None and 0 switch heartbeats off. A ``heartbeat`` in the URL's query wins.
    heartbeat: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = 10
    #: Has no effect: see :attr:`notes`.
    transport_options: dict[str, Any] = {}

    # The wire
    rpc_exchange: str = "nameko-rpc"
    #: Name of the serializer of requests, events and messages.
    serializer: str = "json"
    #: Names or content types of messages to accept. None: see :attr:`accepted`.
    accept: list[str] | None = None
    serializers: dict[str, SerializerOptions] = {}
    #: ``typed``: dates, UUID, Decimal and bytes keep their types, as with kombu >= 5.3.
    #: ``plain``: they become strings, as with older versions.
    json_types: Literal["typed", "plain"] = "typed"
    #: Length of the call id stack that a call carries.
    parent_calls_tracked: AtLeastOne = 10
    auto_delete_event_exchanges: bool = False
    declare_event_exchanges: bool = True
    #: Largest encoded body, in bytes, that this process sends or decodes. A larger one raises an
    #: error before it is sent, and is answered with an error when it arrives. None: the broker's
    #: own limit (``max_message_size``: 128 MiB in RabbitMQ 3.x, 16 MiB from 4.0).
    max_message_size: AtLeastOne | None = 64 * 1024 * 1024

    # Calls
    #: Seconds that a call waits for its answer by default. None: unlimited.
    rpc_timeout: Seconds | None = 30.0
    #: ``durable``: persistent and confirmed; ``fast``: neither.
    call_profile: Literal["durable", "fast"] = "durable"
    #: Ack a request only after the broker has confirmed the reply: for clusters.
    confirm_replies: bool = False
    #: ``lax`` also takes "5" for an int.
    validate_arguments: Literal["strict", "lax", "off"] = "strict"
    #: Seconds that the clocks of two hosts may differ before a request counts as late.
    clock_tolerance: SecondsOrZero = 5.0

    # Hosting
    #: Calls and events that a container runs at the same time.
    max_workers: AtLeastOne = 100
    #: None: as many as ``max_workers``, see :attr:`prefetch`.
    prefetch_count: Prefetched | None = None
    #: Threads for ``def`` methods; None: as many as ``max_workers``, see :attr:`sync_threads`.
    sync_workers: AtLeastOne | None = None
    #: Deliveries of one message before it is parked as poison.
    max_attempts: AtLeastOne = 5
    #: Seconds for calls to finish when the host stops. It abandons calls that take longer.
    shutdown_timeout: SecondsOrZero = 25.0
    #: Seconds for dependencies to close after a cancelled call.
    cleanup_timeout: SecondsOrZero = 5.0
    #: Answer ``aiorpc ls``. This costs one more queue per service.
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

    #: Keys of the user's own that resemble one of these.
    extra_keys: list[str] = []

    #: Where the settings come from, for messages: a path, or ``config``. Not a YAML key.
    source: str = "config"
    _given: dict[str, Any] = {}

    @property
    def raw(self) -> Mapping[str, Any]:
        """The given keys, after substitution, without defaults, read-only: Nameko's config."""
        return MappingProxyType(self._given)

    @property
    def extra(self) -> Mapping[str, Any]:
        """The user's own keys among :attr:`raw`."""
        return {key: value for key, value in self._given.items() if key not in fields()}

    @property
    def accepted(self) -> tuple[str, ...]:
        """Serializers (or content types) to accept. Nameko's default is the own ``serializer``."""
        return (self.serializer,) if self.accept is None else tuple(self.accept)

    @property
    def prefetch(self) -> int:
        """Messages that the broker delivers before the first of them is acked."""
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
        """Sentences for the log, one for each given key that has no effect."""
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
        Return a copy in which these YAML keys replace whole values (``A.B`` is a key, not a path).

        Raises:
            ConfigurationError: names ``source``, the key, and what was expected.
        """
        given = copied(defines, source)
        tls, uri = bool(self.amqp_ssl), self.amqp_uri
        attributes = attributes_of(
            given, fields(), source, own_keys=self.extra_keys, tls=tls, uri=uri
        )
        return msgspec.structs.replace(self, **attributes, _given={**self._given, **given})

    def __repr__(self) -> str:
        return f"Settings({self.source!r}, {redacted(self, defaults=True)!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # Without this, a shell that prints with rich would show the passwords.
        return list(redacted(self, defaults=True).items())


@functools.cache
def fields() -> Mapping[str, msgspec.structs.FieldInfo]:
    """The fields of the settings, by YAML key."""
    every = msgspec.structs.fields(Settings)
    return {field.encode_name: field for field in every if field.name not in {"source", "_given"}}


def redacted(settings: Settings, *, defaults: bool = False) -> dict[str, Any]:
    """
    The configuration by YAML key, to show to people. ``***`` masks passwords in URLs, and every
    value, at any depth, whose name says password, secret, token or key.

    ``defaults`` adds the settings that were not given.
    """
    shown = dict(settings.raw)
    if defaults:
        decoded = {
            key: msgspec.to_builtins(getattr(settings, field.name), enc_hook=repr)
            for key, field in fields().items()
        }
        shown = {**decoded, **settings.extra}
    return {
        key: redact_urls(value) if key in URL_KEYS else redact(key, value, known=fields())
        for key, value in shown.items()
    }

"""
The settings: their names, types and defaults. Does no I/O.

An unknown key belongs to the user, as in Nameko (``self.config["MY_KEY"]``). A key that resembles a
key of aiorpc is an error, because users do not notice a misspelt setting without effect.
``EXTRA_KEYS`` lists keys of the user that only resemble a key of aiorpc.

Imports ``exceptions``, msgspec and the modules beside it, except ``loading`` and ``tls``.
"""

# No `from __future__ import annotations`: msgspec would then compile 60 annotations at each start.

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import msgspec

from .broker_url import BrokerUrl, parse_broker_urls
from .decoding import URL_KEYS, attributes_of, copied
from .queues import QueueOptions
from .redaction import redact, redact_urls

__all__ = [
    "CorsOptions",
    "SerializerOptions",
    "Settings",
    "TlsOptions",
    "fields",
    "redacted",
]

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
#: The prefetch count has 16 bits in AMQP.
_MOST_PREFETCHED = 65535
Prefetched = Annotated[int, msgspec.Meta(ge=1, le=_MOST_PREFETCHED)]
# Less than 30 years, because timers do not accept infinity. Where None is allowed, null is
# unlimited.
Seconds = Annotated[float, msgspec.Meta(gt=0, lt=1e9)]
MessageSize = Annotated[int, msgspec.Meta(ge=4096, description="an error reply must fit")]
SecondsOrZero = Annotated[float, msgspec.Meta(ge=0, lt=1e9)]

# In Nameko, these keys are in lower case, and all other keys in upper case.
_LOWER_CASE_KEYS = frozenset({"rpc_exchange", "serializer", "max_workers", "parent_calls_tracked"})


class SerializerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``SERIALIZERS``. ``encoder`` and ``decoder`` are dotted import paths."""

    encoder: str
    decoder: str
    content_type: str
    content_encoding: str = "utf-8"


class TlsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    ``AMQP_SSL`` as a mapping, with py-amqp's names and ``check_hostname``. Files are in PEM format.

    ``cert_reqs`` may be a name in :mod:`ssl` too (Nameko raises ``TypeError`` for such a name).
    """

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    cert_reqs: Literal[0, 1, 2, "CERT_NONE", "CERT_OPTIONAL", "CERT_REQUIRED"] = 2
    #: The name in the broker's certificate. None: the host of the URL.
    server_hostname: str | None = None
    #: None: True if a certificate is required.
    check_hostname: bool | None = None
    ciphers: str | None = None
    ssl_version: (
        Literal[2, 5, 16, "PROTOCOL_TLS", "PROTOCOL_TLS_CLIENT", "PROTOCOL_TLSv1_2"] | None
    ) = None
    tls_minimum_version: Literal[771, 772, "TLSv1_2", "TLSv1_3"] | None = None
    tls_maximum_version: Literal[771, 772, "TLSv1_2", "TLSv1_3"] | None = None


class CorsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``HTTP_CORS``. The names are those of Starlette's ``CORSMiddleware``."""

    allow_origins: list[str] = []
    allow_origin_regex: str | None = None
    allow_methods: list[str] = msgspec.field(default_factory=lambda: ["GET"])
    allow_headers: list[str] = []
    allow_credentials: bool = False
    expose_headers: list[str] = []
    #: Seconds that a browser keeps the answer.
    max_age: int = 600


def _yaml_key(attribute: str) -> str:
    return attribute if attribute in _LOWER_CASE_KEYS else attribute.upper()


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename=_yaml_key):
    """
    The decoded configuration of a process. The name of an attribute is the YAML key in lower case.

    Times are in seconds, sizes in bytes. ``null`` means the default, except where the type below
    allows None. In ``AMQP_URI``, null is an error: with an unset environment variable, a process
    must not connect to the default broker.

    :func:`load`, :func:`from_mapping` and :func:`resolve` check every value; the constructor checks
    no value. The ``repr`` hides secrets.
    """

    # The broker
    #: The URL of the broker, or alternative URLs separated by ``;``: see :func:`parse_broker_urls`.
    amqp_uri: str = "amqp://guest:guest@localhost/"
    #: True: TLS, with the system's authorities. None, False, {}: the URL's scheme decides.
    amqp_ssl: TlsOptions | bool | None = None
    #: SASL mechanism; None is PLAIN.
    login_method: str | None = None
    #: Seconds; None and 0: no heartbeats. A ``heartbeat`` in the URL's query overrides this value.
    heartbeat: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = 10
    #: Ignored: see :attr:`notes`.
    transport_options: dict[str, Any] = {}

    # The wire
    rpc_exchange: str = "nameko-rpc"
    #: The name of the serializer for requests, events and messages.
    serializer: str = "json"
    #: Serializers or content types to accept. None: see :attr:`accepted`.
    accept: list[str] | None = None
    serializers: dict[str, SerializerOptions] = {}
    #: ``typed``: dates, UUID, Decimal and bytes keep their types, as with kombu >= 5.3. ``plain``:
    #: these values become strings, as with older versions.
    json_types: Literal["typed", "plain"] = "typed"
    #: The number of call ids in the call id stack of a call.
    parent_calls_tracked: AtLeastOne = 10
    auto_delete_event_exchanges: bool = False
    declare_event_exchanges: bool = True
    declare_rpc_exchange: bool = True
    #: Options of the queues of ``@rpc`` and ``@event_handler``, by patterns of their names.
    queue_options: dict[str, QueueOptions] = {}
    #: Largest encoded body, in bytes, that this process sends or decodes. Sending a larger body
    #: raises an error; a service answers a larger request with an error. None: the broker's limit
    #: (``max_message_size``: 128 MiB in RabbitMQ 3.x, 16 MiB from 4.0), which the first refusal
    #: tells us.
    max_message_size: MessageSize | None = 16 * 1024 * 1024

    # Calls
    #: Seconds that a call waits for its answer by default. None: unlimited.
    rpc_timeout: Seconds | None = 30.0
    #: The number of items of a stream that the caller buffers. The service then waits.
    stream_window: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 256
    #: ``durable``: persistent and confirmed messages; ``fast``: transient and unconfirmed.
    call_profile: Literal["durable", "fast"] = "durable"
    #: Ack a request only after the broker confirmed the reply. For clusters of brokers.
    confirm_replies: bool = False
    #: ``lax`` also takes "5" for an int.
    validate_arguments: Literal["strict", "lax", "off"] = "strict"
    #: The largest difference between the clocks of two hosts, in seconds, for deadlines.
    clock_tolerance: SecondsOrZero = 5.0

    # Hosting
    #: Calls and events that a container runs at the same time.
    max_workers: AtLeastOne = 100
    #: None: as many as ``max_workers``, see :attr:`prefetch`.
    prefetch_count: Prefetched | None = None
    #: Threads for ``def`` methods; None: as many as ``max_workers``, see :attr:`sync_threads`.
    sync_workers: AtLeastOne | None = None
    #: Deliveries of one message before the service parks the message as poison.
    max_attempts: AtLeastOne = 5
    #: Seconds for calls to finish when the host stops. It abandons calls that take longer.
    shutdown_timeout: SecondsOrZero = 25.0
    #: Seconds for dependencies to close after a call is cancelled.
    cleanup_timeout: SecondsOrZero = 5.0
    #: Answer ``aiorpc ls`` and ``aiorpc top``. This needs one more queue per service.
    discovery: bool = True
    #: Answer ``aiorpc top --stacks``: the running calls with their arguments and stacks. Everybody
    #: who may use the broker may ask.
    discovery_stacks: bool = False
    #: ``[address:]port``, see :func:`parse_address`. None: no socket, for tests.
    web_server_address: str | int | None = "0.0.0.0:8000"
    #: Largest body of an HTTP request, in bytes.
    http_max_body: AtLeastOne = 16 * 1024 * 1024
    #: Largest total of the headers of an HTTP request, in bytes.
    http_max_headers: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024
    #: Which pages of other sites may read responses. None: none.
    http_cors: CorsOptions | None = None
    #: ``[address:]port`` for probes and metrics. None: no socket. ``aiorpc run`` uses it.
    admin_address: str | int | None = None
    #: Seconds that a method may block the event loop before the log has a warning. None: never.
    blocked_loop_warning: Annotated[float, msgspec.Meta(ge=0.01, lt=1e9)] | None = 0.5
    #: Seconds that the event loop may be blocked before ``/livez`` answers 503.
    liveness_timeout: Seconds = 10.0
    #: Seconds that all workers of a service may be busy with the same calls before ``/readyz``
    #: answers 503. None: unlimited.
    readiness_timeout: Seconds | None = 60.0
    #: The argument of ``logging.config.dictConfig``.
    logging: dict[str, Any] | None = None
    #: Dotted path of a subclass of ``ServiceContainer``.
    service_container_cls: str | None = None
    #: ``module:name`` of each middleware, or a mapping of it to options; the outermost first.
    middleware: list[str | dict[str, Any]] = []

    # Databases
    #: ``{"service_name:BaseName": "postgresql://..."}``
    db_uris: dict[str, str] = {}
    #: One URL for every base, or the same mapping as ``db_uris``.
    db_uri: str | dict[str, str] | None = None
    db_engine_options: dict[str, Any] = {}
    db_session_options: dict[str, Any] = {}

    #: Keys of the user that resemble a key of aiorpc.
    extra_keys: list[str] = []

    #: The origin of the settings, for error texts: a path, or ``config``. Not a YAML key.
    source: str = "config"
    _given: dict[str, Any] = {}
    #: What :func:`aiorpc.installed.middleware_of` has loaded.
    _middleware: list[Any] = []

    @property
    def raw(self) -> Mapping[str, Any]:
        """Nameko's config: the configured keys after substitution, without defaults. Read-only."""
        return MappingProxyType(self._given)

    @property
    def extra(self) -> Mapping[str, Any]:
        """The keys in :attr:`raw` that belong to the user."""
        return {key: value for key, value in self._given.items() if key not in fields()}

    @property
    def accepted(self) -> tuple[str, ...]:
        """Serializers or content types to accept. Default: ``serializer``, as in Nameko."""
        return (self.serializer,) if self.accept is None else tuple(self.accept)

    @property
    def prefetch(self) -> int:
        """The number of unacked messages that the broker delivers to a queue's consumer."""
        return self.prefetch_count or min(self.max_workers, _MOST_PREFETCHED)

    def prefetch_with(self, waiting: int) -> int:
        """
        Return :attr:`prefetch` for a queue of which *waiting* messages may wait for a limited
        method: they must not keep away the messages of other methods.
        """
        return self.prefetch_count or min(self.prefetch + waiting, _MOST_PREFETCHED)

    @property
    def sync_threads(self) -> int:
        """Threads for ``def`` methods."""
        return self.sync_workers or self.max_workers

    @property
    def broker_urls(self) -> tuple[BrokerUrl, ...]:
        """The URLs in ``AMQP_URI``, with TLS if ``AMQP_SSL`` switches TLS on."""
        return parse_broker_urls(self.amqp_uri, tls=bool(self.amqp_ssl))

    @property
    def broker_address(self) -> tuple[str, int]:
        """The host and the port of the first broker; empty and 0 for ``memory://``."""
        url = self.broker_urls[0]
        return ("", 0) if url.scheme == "memory" else (url.host, url.port)

    def login_method_for(self, url: BrokerUrl) -> str:
        """Return the SASL mechanism of connections to *url*, in upper case."""
        return (url.login_method or self.login_method or "PLAIN").upper()

    def heartbeat_for(self, url: BrokerUrl) -> int:
        """Return the seconds between heartbeats on connections to *url*; 0: no heartbeats."""
        return (self.heartbeat or 0) if url.heartbeat is None else url.heartbeat

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings for the log about configured keys that have no effect."""
        notes = []
        if "AMQP_FAST_LANE" in self._given:
            notes.append("AMQP_FAST_LANE has no effect any more. Delete the key")
        if self.transport_options:
            notes.append(
                "TRANSPORT_OPTIONS has no effect: aiorpc reconnects until it stops, with its "
                "own backoff"
            )
        return tuple(f"{self.source}: {note}" for note in notes)

    def with_defines(self, defines: Mapping[str, Any], source: str = "--define") -> Self:
        """
        Return a copy with the values of *defines*, by YAML key (``A.B`` is a key, not a path).

        Raises:
            ConfigurationError: the error names ``source``, the key, and the expected type.
        """
        if not defines:
            return self
        given = copied(defines, source)
        tls, uri = bool(self.amqp_ssl), self.amqp_uri
        attributes = attributes_of(
            given, fields(), source, own_keys=self.extra_keys, tls=tls, uri=uri
        )
        return msgspec.structs.replace(
            self, **attributes, _given={**self._given, **given}, _middleware=[]
        )

    def __repr__(self) -> str:
        return f"Settings({self.source!r}, {redacted(self, defaults=True)!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # Without this method, a shell that prints with rich would show the passwords.
        return list(redacted(self, defaults=True).items())


@functools.cache
def fields() -> Mapping[str, msgspec.structs.FieldInfo]:
    """Return the fields of the settings, by YAML key."""
    every = msgspec.structs.fields(Settings)
    others = {"source", "_given", "_middleware"}
    return {field.encode_name: field for field in every if field.name not in others}


def redacted(settings: Settings, *, defaults: bool = False) -> dict[str, Any]:
    """
    Return the configuration by YAML key, without secrets. ``***`` replaces passwords in URLs, and
    values at any depth whose name has a word such as password, secret, token or key.

    ``defaults`` adds the defaults of missing settings.
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

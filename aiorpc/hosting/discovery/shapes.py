"""
The questions of discovery, and the answers in the shapes of NATS services (ADR-32). Values and pure
functions; no I/O.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
from msgspec.structs import replace

__all__ = [
    "UNREADABLE",
    "Caller",
    "DiscoveryAnswer",
    "Doing",
    "EndpointData",
    "EndpointInfo",
    "EndpointStats",
    "Fired",
    "Info",
    "Instance",
    "Listing",
    "Ping",
    "Promises",
    "Question",
    "Stacks",
    "Stats",
    "answer_of",
    "encoded",
]

#: What msgspec raises for bytes that are no JSON, no UTF-8, or nested too deep.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


#: A number of calls or of nanoseconds; and the number of a bucket, up to the age of the universe. A
#: foreign message may have any number, and no arithmetic with these overflows.
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Bucket: TypeAlias = Annotated[int, msgspec.Meta(ge=-200, le=500)]

#: The metadata that aiorpc adds to that of the service class.
_OWN = frozenset({"host", "pid", "worker", "aiorpc"})


class Question(enum.StrEnum):
    """What a tool asks. It is the first word of the routing key."""

    PING = "PING"
    INFO = "INFO"
    STATS = "STATS"
    STACKS = "STACKS"
    CONTRACT = "CONTRACT"

    def to(self, service: str = "") -> str:
        """Return the routing key of the question to all instances, or to those of *service*."""
        return f"{self}.{service}" if service else str(self)


class DiscoveryAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """
    What every answer has.

    Attributes:
        id: of this instance: one service in one process, from its start to its stop.
        version: of the service class; empty: it has none.
        metadata: ``host``, ``pid``, ``worker`` (the number of a process of ``--workers``) and
            ``aiorpc`` (its version), and the ``metadata`` of the class.
    """

    name: str
    id: str
    version: str = ""
    metadata: dict[str, str] = {}

    @property
    def of_the_class(self) -> dict[str, str]:
        """The ``metadata`` of the service class."""
        return {name: text for name, text in self.metadata.items() if name not in _OWN}

    @property
    def process(self) -> str:
        """The host and the process id."""
        return f"{self.metadata.get('host', '?')}:{self.metadata.get('pid', '?')}"


class Ping(DiscoveryAnswer, frozen=True, kw_only=True, tag="io.aiorpc.v1.ping_response"):
    """The answer to PING."""


class Listing(DiscoveryAnswer, frozen=True, kw_only=True):
    """
    An answer with a list.

    Attributes:
        left_out: the entries that are left out of the list, because it would be too large.
    """

    #: The attribute with the list.
    listed: ClassVar[str]

    left_out: Count = 0


class EndpointInfo(msgspec.Struct, frozen=True):
    """
    A method and its entrypoint.

    Attributes:
        name: the method.
        queue: the queue that the entrypoint consumes, if any.
        metadata: ``kind`` is the class of the entrypoint (``Rpc``, ``Timer``, ...); ``route`` its
            HTTP route; ``description`` the first line of the method's docstring.
    """

    name: str
    queue: str | None = None
    metadata: dict[str, str] = {}


class Info(Listing, frozen=True, kw_only=True, tag="io.aiorpc.v1.info_response"):
    """The answer to INFO. ``description`` is the first paragraph of the class's docstring."""

    listed: ClassVar[str] = "endpoints"

    description: str = ""
    endpoints: list[EndpointInfo] = []

    def called_on(self, queue: str) -> frozenset[str]:
        """Return the methods whose requests come from *queue*."""
        return frozenset(each.name for each in self.endpoints if each.queue == queue)


class Caller(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What one caller of a method did.

    Attributes:
        calls: its calls that have ended; above some calls per second, an estimate.
        ago: seconds since its last call.
    """

    calls: Count = 0
    ago: float = 0.0


class EndpointData(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What aiorpc adds to the statistics of NATS.

    Attributes:
        in_flight: calls that run now.
        waiting: calls that arrived, and wait for a worker.
        durations: calls by the number of the bucket of their duration, since somebody began to ask
            STATS; see :func:`aiorpc.hosting.counts.bucket_of`.
        callers: the ended calls by ``service.method`` that made them; see
            :mod:`aiorpc.hosting.callers`.
    """

    kind: str = ""
    in_flight: Count = 0
    waiting: Count = 0
    durations: dict[Bucket, Count] = {}
    callers: dict[str, Caller] = {}


class EndpointStats(msgspec.Struct, frozen=True):
    """
    The calls of an entrypoint since ``started``. Times are in nanoseconds.

    Attributes:
        num_requests: all calls that arrived, also those that run or wait.
        num_errors: calls that ended with an error that the service does not expect.
        processing_time: of all ended calls together, from their start until their dependencies
            closed.
    """

    name: str
    queue: str | None
    num_requests: Count
    num_errors: Count
    last_error: str
    processing_time: Count
    average_processing_time: Count
    data: EndpointData = EndpointData()

    @property
    def ended(self) -> int:
        """The number of ended calls."""
        return self.num_requests - self.data.in_flight - self.data.waiting


class Stats(Listing, frozen=True, kw_only=True, tag="io.aiorpc.v1.stats_response"):
    """
    The answer to STATS.

    Attributes:
        started: when counting began, as RFC 3339 in UTC.
        uptime: seconds since then, by the clock of the instance that never jumps.
    """

    listed: ClassVar[str] = "endpoints"

    started: str
    uptime: float = 0.0
    endpoints: list[EndpointStats] = []


class Doing(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    A call in an instance, and what its worker does now.

    Attributes:
        state: ``waiting`` (for a worker), ``running``, or ``closing`` (its dependencies close).
        seconds: since its worker began; 0 for a waiting call.
        arguments: as text, by name. Sensitive arguments are masked, and long ones are cut.
        stack: the lines of code that its task or its thread executes, the innermost last.
    """

    method: str
    call_id: str
    state: str
    seconds: float = 0.0
    arguments: dict[str, str] = {}
    stack: list[str] = []


class Stacks(Listing, frozen=True, kw_only=True, tag="io.aiorpc.v1.stacks_response"):
    """The answer to STACKS. Without ``DISCOVERY_STACKS``, *permitted* is false."""

    listed: ClassVar[str] = "calls"

    permitted: bool = False
    calls: list[Doing] = []


class Promises(Listing, frozen=True, kw_only=True, tag="io.aiorpc.v1.contract_response"):
    """
    The answer to CONTRACT.

    Attributes:
        documents: the contract of the service, as :mod:`aiorpc.contracts.writing` writes it and
            :mod:`aiorpc.contracts.packing` packs it; left out if it is too large for a message.
        fault: why the service cannot describe itself.
    """

    listed: ClassVar[str] = "documents"

    fault: str = ""
    documents: list[Any] = []


class Fired(msgspec.Struct, frozen=True):
    """
    A method, the kind of its entrypoint (``Rpc``, ``Timer``, ...), and its queue and its HTTP
    route, if any.
    """

    method: str
    kind: str
    queue: str | None = None
    route: str | None = None


class Instance(msgspec.Struct, frozen=True):
    """
    One service in one process: what it announces when it is ready, and what an aiorpc without the
    questions above answers.
    """

    service: str
    host: str
    pid: int
    entrypoints: tuple[Fired, ...] = ()

    def info(self) -> Info:
        """Return the answer to INFO that this instance would give."""
        return Info(
            name=self.service,
            id=f"{self.host}:{self.pid}",
            metadata={"host": self.host, "pid": str(self.pid)},
            endpoints=[
                EndpointInfo(
                    each.method,
                    each.queue,
                    {"kind": each.kind, **({"route": each.route} if each.route else {})},
                )
                for each in self.entrypoints
            ],
        )


def answer_of(body: bytes) -> DiscoveryAnswer:
    """
    Decode an answer. That of an earlier aiorpc, an :class:`Instance`, becomes an :class:`Info`. If
    *body* is something else, raise one of :data:`UNREADABLE`.
    """
    try:
        answer: DiscoveryAnswer = msgspec.json.decode(
            body, type=Ping | Info | Stats | Stacks | Promises
        )
    except msgspec.ValidationError:
        return msgspec.json.decode(body, type=Instance).info()
    return answer


def encoded(answer: DiscoveryAnswer, most: int) -> bytes:
    """Return *answer* in JSON. If it has more than *most* bytes, its list is cut."""
    body = msgspec.json.encode(answer)
    while len(body) > most and isinstance(answer, Listing):
        entries: list[Any] = getattr(answer, answer.listed)
        if not entries:
            break
        kept = min(len(entries) - 1, len(entries) * most // len(body))
        left_out = answer.left_out + len(entries) - kept
        answer = replace(answer, left_out=left_out, **{answer.listed: entries[:kept]})
        body = msgspec.json.encode(answer)
    return body

"""
The metrics of aiorpc: their names as Prometheus spells them, what they mean, and their labels.
Values; nothing else. The documentation, the dashboard and the alerts are checked against this file.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from . import conventions as names
from .conventions import prometheus

__all__ = ["COUNTERS", "DURATIONS", "GAUGES", "MESSAGES", "Metric"]


class Metric(msgspec.Struct, frozen=True):
    """
    Attributes:
        name: in base units. Prometheus adds ``_total`` to a counter.
        help: what the metric says.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    #: How Prometheus joins the values of a gauge of several processes.
    joined: Literal["livesum", "livemax"] = "livesum"


def _spelled(*attributes: str) -> tuple[str, ...]:
    return tuple(prometheus(each) for each in attributes)


_RPC = _spelled(names.RPC_SYSTEM_NAME, names.RPC_METHOD, names.ERROR_TYPE)
_SENT = _spelled(
    *(names.MESSAGING_SYSTEM, names.MESSAGING_OPERATION_NAME),
    *(names.MESSAGING_DESTINATION_NAME, names.ERROR_TYPE),
)
_CONSUMED = _spelled(
    *(names.MESSAGING_SYSTEM, names.MESSAGING_OPERATION_NAME),
    *(names.MESSAGING_CONSUMER_GROUP, names.ERROR_TYPE),
)
_HTTP = _spelled(names.HTTP_REQUEST_METHOD, names.HTTP_ROUTE, names.ERROR_TYPE)
_METHOD = ("service", "method")

#: Histograms of seconds, by what they measure.
DURATIONS: Final = {
    "client": Metric(
        prometheus(names.CLIENT_DURATION, "seconds"), "Duration of calls at the caller", _RPC
    ),
    "server": Metric(
        prometheus(names.SERVER_DURATION, "seconds"),
        "Duration of calls at the service: the method, its dependencies and middleware",
        _RPC,
    ),
    "producer": Metric(
        prometheus(names.SEND_DURATION, "seconds"),
        "Duration of sending an event or a message, until the broker has confirmed it",
        _SENT,
    ),
    "consumer": Metric(
        prometheus(names.PROCESS_DURATION, "seconds"),
        "Duration of handling an event or a message",
        _CONSUMED,
    ),
    "http": Metric(
        prometheus(names.HTTP_SERVER_DURATION, "seconds"), "Duration of HTTP requests", _HTTP
    ),
    "internal": Metric(
        "aiorpc_timer_duration_seconds",
        "Duration of methods that no message starts, such as timers",
        (*_METHOD, prometheus(names.ERROR_TYPE)),
    ),
    "queue": Metric(
        "aiorpc_time_in_queue_seconds",
        "Time from the sending of a request until the service received it",
        _METHOD,
    ),
    "waiting": Metric(
        "aiorpc_time_waiting_seconds",
        "Time from the receiving of a call until a worker was free",
        _METHOD,
    ),
}

#: Counters of messages.
MESSAGES: Final = {
    "producer": Metric(prometheus(names.SENT), "Messages that were sent", _SENT),
    "consumer": Metric(prometheus(names.CONSUMED), "Messages that were handled", _CONSUMED),
}

#: Counters by the name of the figure (``aiorpc.figures``).
COUNTERS: Final = {
    "reconnects": Metric("aiorpc_reconnects", "Lost connections to the broker"),
    "parked": Metric("aiorpc_parked_messages", "Messages that failed for good", ("queue",)),
    "inbox": Metric(
        "aiorpc_inbox_duplicates", "Messages that an inbox did not run a second time", ("queue",)
    ),
    "resent": Metric(
        "aiorpc_resent_requests", "Requests sent again, after a lost connection", _METHOD
    ),
}

#: Gauges by the name of the figure.
GAUGES: Final = {
    "running": Metric("aiorpc_calls_in_flight", "Calls that run in a worker now", _METHOD),
    "waiting": Metric("aiorpc_calls_waiting", "Calls that wait for a worker now", _METHOD),
    "workers": Metric("aiorpc_workers", "Workers that run now", ("service",)),
    "workers_max": Metric("aiorpc_workers_max", "The limit of workers, max_workers", ("service",)),
    "client_calls": Metric("aiorpc_client_calls_in_flight", "Calls that wait for an answer now"),
    "connections": Metric("aiorpc_connections", "Connections to the broker by state", ("state",)),
    "outbox": Metric("aiorpc_messages_waiting", "Messages that wait for a connection now"),
    "database_connections": Metric(
        "aiorpc_database_connections", "Connections of a database's pool", ("database", "state")
    ),
    "database_connections_max": Metric(
        "aiorpc_database_connections_max",
        "The limit of a database's pool: pool_size and max_overflow",
        ("database",),
    ),
    "database_waiting": Metric(
        "aiorpc_database_calls_waiting", "Calls that wait for a connection now", ("database",)
    ),
    "outbox_rows": Metric(
        "aiorpc_outbox_rows",
        "Messages in an outbox: waiting, or set aside",
        ("outbox", "state"),
        joined="livemax",
    ),
    "outbox_age": Metric(
        "aiorpc_outbox_oldest_age_seconds",
        "Time since the oldest waiting message of an outbox was written",
        ("outbox",),
        joined="livemax",
    ),
}

"""
The names of OpenTelemetry's semantic conventions 1.44 that aiorpc uses, and of its metrics. Values
and pure functions.

They are copied, because the package ``opentelemetry-semantic-conventions`` pins one version of the
OpenTelemetry API. The tests compare them with that package.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ..call import Call
from ..exceptions import RemoteError, RpcTimeout

__all__ = ["OTHER", "SCHEMA", "cut_off", "destination", "error_type", "method"]

#: The version of the conventions, as OpenTelemetry's tools read it.
SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"

# Attributes of spans

RPC_SYSTEM_NAME: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_METHOD_ORIGINAL: Final = "rpc.method_original"
#: Renamed from ``rpc.response.status_code`` to ``rpc.status_code`` after 1.44.
RPC_STATUS_CODE: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGING_ROUTING_KEY: Final = "messaging.rabbitmq.destination.routing_key"
MESSAGING_CONSUMER_GROUP: Final = "messaging.consumer.group.name"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_CONVERSATION_ID: Final = "messaging.message.conversation_id"
CODE_FUNCTION_NAME: Final = "code.function.name"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

# Values

#: The system of calls: their wire is Nameko's.
NAMEKO: Final = "nameko"
RABBITMQ: Final = "rabbitmq"
#: Stands for a method that the service does not have, and for values beyond the limit of a label.
OTHER: Final = "_OTHER"

# Metrics

CLIENT_DURATION: Final = "rpc.client.call.duration"
SERVER_DURATION: Final = "rpc.server.call.duration"
SEND_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"
HTTP_SERVER_DURATION: Final = "http.server.request.duration"
SENT: Final = "messaging.client.sent.messages"
CONSUMED: Final = "messaging.client.consumed.messages"
#: Upper bounds of the buckets of durations, in seconds.
BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
#: Finer buckets: a call takes 0.3 ms.
FINE_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, *BUCKETS)


def prometheus(name: str, unit: str = "") -> str:
    """Return *name* of a metric or an attribute as Prometheus spells it."""
    return f"{name.replace('.', '_')}{unit and f'_{unit}'}"


def method(call: Call) -> str:
    """Return the value of ``rpc.method``."""
    return f"{call.service}/{call.method}"


def destination(exchange: str, routing_key: str) -> str:
    """Return the value of ``messaging.destination.name``. The default exchange has no name."""
    return f"{exchange}:{routing_key}" if exchange else routing_key


def error_type(error: BaseException, call: Call) -> str:
    """
    Return the value of ``error.type``: the name of the error's class. For an error of a remote
    method, it is the name that came with the answer.
    """
    if isinstance(error, RemoteError):
        return error.exc_type
    return (RpcTimeout if cut_off(error, call) else type(error)).__name__


def cut_off(error: BaseException, call: Call) -> bool:
    """Return whether the host cancelled *call* at its deadline: it then answers RpcTimeout."""
    deadline = call.context.deadline
    is_late = deadline is not None and deadline.remaining() <= 0
    return is_late and isinstance(error, asyncio.CancelledError)

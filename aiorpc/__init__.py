"""
aiorpc: microservices on asyncio and RabbitMQ, compatible with Nameko's messages, without eventlet.

This file is the public interface: users import from here, and from ``aiorpc.sqlalchemy``,
``aiorpc.testing``, ``aiorpc.sync`` and ``aiorpc.from_thread``.
"""

from __future__ import annotations

from .call import Call, Handler, Middleware
from .calling.proxies import ClusterProxy, RpcReply, ServiceProxy
from .calling.standalone import ClusterRpcProxy, ServiceRpcProxy, event_dispatcher
from .context import Context, Deadline
from .dependencies.config import Config, ContextData
from .dependencies.dispatcher import EventDispatcher
from .dependencies.proxies import ClusterRpc, RpcProxy
from .dependencies.publisher import Publisher
from .entrypoints.consumer import consume
from .entrypoints.events import BROADCAST, SERVICE_POOL, SINGLETON, event_handler
from .entrypoints.rpc import rpc
from .entrypoints.timer import once, timer
from .exceptions import (
    AioRpcError,
    BadArguments,
    BadRequest,
    ConfigurationError,
    ConnectionLost,
    DeliveryUncertain,
    IncorrectSignature,
    InProgress,
    MalformedReply,
    MalformedRequest,
    MethodNotFound,
    Overloaded,
    RemoteError,
    RpcError,
    RpcTimeout,
    ServiceUnavailable,
    UnknownService,
    Unroutable,
    UnserializableValueError,
    deserialize_to_instance,
)
from .extensions import DependencyProvider, Entrypoint, Host, WorkerContext
from .hosting.container import ServiceContainer
from .hosting.log_lines import CallLogFilter
from .hosting.runner import ServiceRunner, serve
from .wire.errors import safe_for_serialization
from .wire.message import Exchange, Queue

__version__ = "0.1.0"

__all__ = [
    "BROADCAST",
    "SERVICE_POOL",
    "SINGLETON",
    "AioRpcError",
    "BadArguments",
    "BadRequest",
    "Call",
    "CallLogFilter",
    "ClusterProxy",
    "ClusterRpc",
    "ClusterRpcProxy",
    "Config",
    "ConfigurationError",
    "ConnectionLost",
    "Context",
    "ContextData",
    "Deadline",
    "DeliveryUncertain",
    "DependencyProvider",
    "Entrypoint",
    "EventDispatcher",
    "Exchange",
    "Handler",
    "Host",
    "InProgress",
    "IncorrectSignature",
    "MalformedReply",
    "MalformedRequest",
    "MethodNotFound",
    "Middleware",
    "Overloaded",
    "Publisher",
    "Queue",
    "RemoteError",
    "RpcError",
    "RpcProxy",
    "RpcReply",
    "RpcTimeout",
    "ServiceContainer",
    "ServiceProxy",
    "ServiceRpcProxy",
    "ServiceRunner",
    "ServiceUnavailable",
    "UnknownService",
    "Unroutable",
    "UnserializableValueError",
    "WorkerContext",
    "__version__",
    "consume",
    "deserialize_to_instance",
    "event_dispatcher",
    "event_handler",
    "once",
    "rpc",
    "safe_for_serialization",
    "serve",
    "timer",
]

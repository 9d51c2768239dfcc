"""
aiorpc: microservices on asyncio and RabbitMQ, compatible with Nameko's messages, without eventlet.

This package is the public interface: users import from here, and from ``aiorpc.sqlalchemy``,
``aiorpc.testing``, ``aiorpc.sync`` and ``aiorpc.from_thread``. The first use of a name imports its
module, because most programs need few of them (PEP 562). Type checkers read ``__init__.pyi``.
"""

from __future__ import annotations

import importlib as _importlib

__version__ = "0.1.0"

#: The public names of each module.
_NAMES = {
    "call": (
        "Call",
        "Handler",
        "Middleware",
    ),
    "calling.proxies": (
        "ClusterProxy",
        "RpcReply",
        "RpcStream",
        "ServiceProxy",
    ),
    "calling.standalone": (
        "ClusterRpcProxy",
        "ServiceRpcProxy",
        "event_dispatcher",
    ),
    "context": (
        "Context",
        "Deadline",
    ),
    "dependencies.config": (
        "AuthToken",
        "Config",
        "ContextData",
        "Language",
        "UserAgent",
        "UserId",
    ),
    "dependencies.dispatcher": ("EventDispatcher",),
    "dependencies.idempotency": ("InMemoryIdempotency",),
    "dependencies.proxies": (
        "ClusterRpc",
        "RpcProxy",
    ),
    "dependencies.publisher": ("Publisher",),
    "entrypoints.consumer": (
        "Consumer",
        "consume",
    ),
    "entrypoints.cron": ("cron",),
    "entrypoints.events": (
        "BROADCAST",
        "SERVICE_POOL",
        "SINGLETON",
        "EventHandler",
        "event_handler",
    ),
    "entrypoints.retry": ("Retry",),
    "entrypoints.rpc": (
        "Rpc",
        "rpc",
    ),
    "entrypoints.timer": (
        "Timer",
        "once",
        "timer",
    ),
    "exceptions": (
        "AioRpcError",
        "BadArguments",
        "BadRequest",
        "CircuitOpen",
        "ConfigurationError",
        "ConnectionLost",
        "DeliveryUncertain",
        "IncorrectSignature",
        "InProgress",
        "MalformedReply",
        "MalformedRequest",
        "MethodNotFound",
        "Overloaded",
        "RemoteError",
        "RpcError",
        "RpcTimeout",
        "ServiceUnavailable",
        "UnknownService",
        "Unroutable",
        "UnserializableValueError",
        "deserialize_to_instance",
    ),
    "extensions": (
        "DependencyProvider",
        "Entrypoint",
        "Host",
        "WorkerContext",
    ),
    "hosting.container": ("ServiceContainer",),
    "hosting.log_lines": ("CallLogFilter",),
    "hosting.runner": (
        "ServiceRunner",
        "serve",
    ),
    "wire.errors": ("safe_for_serialization",),
    "wire.message": (
        "Exchange",
        "Queue",
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Import the public *name*, or the submodule *name*, at its first use."""
    module = _MODULES.get(name)
    if module is not None:
        value = getattr(_importlib.import_module(f".{module}", __name__), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return _importlib.import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":  # it needs an extra
                # hasattr() must not raise. `import aiorpc.sqlalchemy` and `from aiorpc import
                # sqlalchemy` raise *error* itself.
                raise AttributeError(f"module {__name__!r} has no {name!r}: {error}") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})

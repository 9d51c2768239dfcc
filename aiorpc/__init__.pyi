from .call import Call as Call, Handler as Handler, Middleware as Middleware
from .calling.proxies import (
    ClusterProxy as ClusterProxy,
    RpcReply as RpcReply,
    RpcStream as RpcStream,
    ServiceProxy as ServiceProxy,
)
from .calling.standalone import (
    ClusterRpcProxy as ClusterRpcProxy,
    ServiceRpcProxy as ServiceRpcProxy,
    event_dispatcher as event_dispatcher,
)
from .context import Context as Context, Deadline as Deadline
from .dependencies.config import (
    AuthToken as AuthToken,
    Config as Config,
    ContextData as ContextData,
    Language as Language,
    UserAgent as UserAgent,
    UserId as UserId,
)
from .dependencies.dispatcher import EventDispatcher as EventDispatcher
from .dependencies.idempotency import InMemoryIdempotency as InMemoryIdempotency
from .dependencies.proxies import ClusterRpc as ClusterRpc, RpcProxy as RpcProxy
from .dependencies.publisher import Publisher as Publisher
from .entrypoints.consumer import Consumer as Consumer, consume as consume
from .entrypoints.cron import cron as cron
from .entrypoints.events import (
    BROADCAST as BROADCAST,
    SERVICE_POOL as SERVICE_POOL,
    SINGLETON as SINGLETON,
    EventHandler as EventHandler,
    event_handler as event_handler,
)
from .entrypoints.retry import Retry as Retry
from .entrypoints.rpc import Rpc as Rpc, rpc as rpc
from .entrypoints.timer import Timer as Timer, once as once, timer as timer
from .exceptions import (
    AioRpcError as AioRpcError,
    BadArguments as BadArguments,
    BadRequest as BadRequest,
    CircuitOpen as CircuitOpen,
    ConfigurationError as ConfigurationError,
    ConnectionLost as ConnectionLost,
    DeliveryUncertain as DeliveryUncertain,
    IncorrectSignature as IncorrectSignature,
    InProgress as InProgress,
    MalformedReply as MalformedReply,
    MalformedRequest as MalformedRequest,
    MethodNotFound as MethodNotFound,
    Overloaded as Overloaded,
    RemoteError as RemoteError,
    RpcError as RpcError,
    RpcTimeout as RpcTimeout,
    ServiceUnavailable as ServiceUnavailable,
    UnknownService as UnknownService,
    Unroutable as Unroutable,
    UnserializableValueError as UnserializableValueError,
    deserialize_to_instance as deserialize_to_instance,
)
from .extensions import (
    DependencyProvider as DependencyProvider,
    Entrypoint as Entrypoint,
    Host as Host,
    WorkerContext as WorkerContext,
)
from .hosting.container import ServiceContainer as ServiceContainer
from .hosting.log_lines import CallLogFilter as CallLogFilter
from .hosting.runner import ServiceRunner as ServiceRunner, serve as serve
from .wire.errors import safe_for_serialization as safe_for_serialization
from .wire.message import Exchange as Exchange, Queue as Queue

__version__: str

"""
The face for programs without an event loop: threads, Flask, Django, scripts. The code is in
``aiorpc.calling.sync``.
"""

from .calling.sync import (
    ClusterProxy as ClusterProxy,
    ClusterRpcProxy as ClusterRpcProxy,
    Dispatch as Dispatch,
    MethodProxy as MethodProxy,
    RpcReply as RpcReply,
    ServiceProxy as ServiceProxy,
    __all__ as __all__,
    event_dispatcher as event_dispatcher,
)

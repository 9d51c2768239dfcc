"""
The face for programs without an event loop: threads, Flask, Django, scripts. The code is in
``aiorpc.calling.sync``.
"""

from .calling.sync import (
    ClusterProxy,
    ClusterRpcProxy,
    Dispatch,
    MethodProxy,
    RpcReply,
    ServiceProxy,
    event_dispatcher,
)

__all__ = [
    "ClusterProxy",
    "ClusterRpcProxy",
    "Dispatch",
    "MethodProxy",
    "RpcReply",
    "ServiceProxy",
    "event_dispatcher",
]

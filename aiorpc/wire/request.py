"""
A request on the receiving side, as far as its properties tell. A value; nothing here waits.
"""

from __future__ import annotations

import msgspec

from ..context import NO_CONTEXT, Context, Deadline
from ..exceptions import RpcTimeout
from .message import Message
from .serializers import Serializer

__all__ = ["Request"]


class Request(msgspec.Struct, eq=False):
    """
    A request as far as its properties tell, before its body is decoded: enough to answer it,
    whatever is wrong with the rest.

    Attributes:
        serializer: how the reply is to be encoded: as the request was, or by default if that is
            unknown.
        deadline: that of ``context``.
        late: why the request is too late to be run, or ``None``.
    """

    message: Message
    method: str
    serializer: Serializer
    context: Context = NO_CONTEXT
    deadline: Deadline | None = None
    late: RpcTimeout | None = None
    resent: bool = False
    compressed: bool = False

"""Makes the calls of one service, and their ids. Awaits nothing."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from msgspec.structs import replace

from ..call import Call
from ..context import EMPTY, NO_CONTEXT, Context, id_source
from ..extensions import Entrypoint

__all__ = ["NewCalls"]


class NewCalls:
    """
    Makes the calls of the service *service_name*.

    Args:
        keep_ids: the number of earlier ids that a call id stack keeps.
        broker: see :attr:`aiorpc.Call.broker`.

    Attributes:
        timed: whether calls get the time of their receipt, for middleware.
    """

    def __init__(self, service_name: str, keep_ids: int, broker: tuple[str, int]) -> None:
        self.timed = False
        self._service_name = service_name
        self._keep_ids = keep_ids
        self._broker = broker
        self._new_id = id_source()

    def new_call(
        self,
        entrypoint: Entrypoint,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = EMPTY,
        context: Context = NO_CONTEXT,
        kind: str = "rpc",
        redelivered: bool = False,
        exchange: str = "",
        routing_key: str = "",
        message: Any = None,
    ) -> Call:
        """See :meth:`aiorpc.extensions.Host.new_call`."""
        name, method = self._service_name, entrypoint.method_name
        call_id = f"{name}.{method}.{self._new_id()}"
        return Call(
            name,
            method,
            args,
            kwargs,
            context.entered(call_id, self._keep_ids),
            kind,
            redelivered,
            call_id,
            entrypoint,
            exchange,
            routing_key,
            self._broker,
            message,
            monotonic() if self.timed else 0.0,
        )

    def entered(self, call: Call) -> Call:
        """Return *call* with a call id; a new one, if it has none."""
        if call.id:
            return call
        call_id = f"{call}.{self._new_id()}"
        context = call.context.entered(call_id, self._keep_ids)
        return replace(call, id=call_id, context=context, broker=self._broker)

"""
Refuses requests that start no call: logs one line, lets the middleware see the error, and answers.
Awaits nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from ..call import Call
from ..exceptions import BadArguments, DeliveryUncertain, MethodNotFound, likely
from ..extensions import Ending, Entrypoint, Host, Outcome
from ..logs import logger, named
from ..wire.copies import attempts_of
from .answers import ServedRequest
from .streams import no_items

__all__ = ["Refusals", "not_found", "not_idempotent", "uncertain"]

log = logger("aiorpc.rpc")


class _AnswerError(Protocol):
    def __call__(
        self, request: Any, error: BaseException, *, refusal: bool, secrets: Collection[str]
    ) -> None: ...


class Refusals:
    """
    The refused requests of the service of *host*.

    Args:
        entrypoints: those of the methods, by name.
        settle: settles a request that a middleware answered.
        answer_error: answers a request with an error.
    """

    def __init__(
        self,
        host: Host,
        entrypoints: Mapping[str, Entrypoint],
        settle: Callable[[Any, Outcome], None],
        answer_error: _AnswerError,
    ) -> None:
        self._host = host
        self._entrypoints = entrypoints
        self._settle = settle
        self._answer_error = answer_error

    def refuse(
        self,
        request: ServedRequest,
        error: Exception,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        refusal: bool = False,
    ) -> None:
        """
        Answer *request* with *error*, unless the middleware makes another answer.

        Args:
            args, kwargs: what came.
            refusal: the error is the host's, not the method's.
        """
        service, method = self._host.service_name, request.method
        log.warning(
            "%s.%s: a request was refused: %s: %s%s",
            *(service, method, type(error).__name__, error),
            "" if request.message.reply_to else " (no reply_to: the caller gets no answer)",
            extra=named(service, method),
        )
        call = Call(
            *(service, method, tuple(args), kwargs, request.context),
            redelivered=request.delivery.redelivered or request.resent,
            entrypoint=self._entrypoints.get(method),
            message=request.message,
        )
        encode = partial(self._host.wire.replies.result, request.message)
        self._host.refuse(
            call,
            Outcome(Ending.REFUSED, error=error),
            partial(self._ended, request, refusal),
            no_items if request.window else encode,
        )

    def _ended(self, request: ServedRequest, refusal: bool, outcome: Outcome) -> None:
        if not request.message.reply_to:
            request.delivery.reject(requeue=False)
        elif outcome.error is None:
            self._settle(request, outcome)
        else:
            refused = refusal and outcome.ending is Ending.REFUSED
            self._answer_error(request, outcome.error, refusal=refused, secrets=outcome.secrets)


def not_found(method: str, service_cls: type, known: Collection[str]) -> MethodNotFound:
    """Return the error for *method*, which is none of the *known* methods of *service_cls*."""
    if not method.startswith("_") and callable(getattr(service_cls, method, None)):
        hint = f" ({service_cls.__name__}.{method} has no @rpc)"
    else:
        hint = likely(method, known)
    return MethodNotFound(f"{method}{hint}")


def not_idempotent(name: str) -> BadArguments:
    """Return the error for a call of *name* with an idempotency key, which nothing would heed."""
    return BadArguments(
        f"{name} is not idempotent, so a call with a key could run twice: declare the method with "
        "@rpc(idempotent=True), or call it without idempotency_key"
    )


def uncertain(name: str, request: ServedRequest) -> DeliveryUncertain:
    """Return the error for *request*, which came again, and whose method *name* may have run."""
    by_broker = request.delivery.redelivered or attempts_of(request.message) is not None
    how = "redelivered by the broker" if by_broker else "sent again by its caller"
    return DeliveryUncertain(
        f"{name} is at-most-once and the request was {how}: it may have run already and was not "
        "run again. Find out whether it ran, then call again"
    )

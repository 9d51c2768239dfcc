"""
Remote procedure calls: ``@rpc``.

One consumer serves all ``@rpc`` methods of a service, on the queue ``rpc-<service>``. Every request
is settled once: answered with the result or a typed error, then acked. What cannot be answered is
acked with one line in the log. Nothing a peer sends stops the consumer.
"""

from __future__ import annotations

import inspect
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

import msgspec

from ..call import Call
from ..calling.options import UNSET
from ..calling.proxies import RpcReply
from ..exceptions import AioRpcError, DeliveryUncertain, MethodNotFound
from ..extensions import Ending, Entrypoint, Host, Outcome, Submission
from ..transports.base import Delivery, Outgoing
from ..wire.arguments import Arguments
from ..wire.copies import attempts_of
from ..wire.errors import text_of
from ..wire.message import Message
from ..wire.requests import Request
from .attempts import Attempts
from .withdrawals import Key, Withdrawals

__all__ = ["BoundRpcMethod", "Rpc", "RpcMethod", "rpc"]

log = logging.getLogger("aiorpc.rpc")

_RETURNED = Ending.RETURNED  # looking up a member of an enumeration costs, on Python 3.11

#: Answers that are kept for requests that come again, and how large one may be.
REMEMBERED = 256
REMEMBERED_BYTES = 64 * 1024

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Rpc(Entrypoint):
    """Fires a method when it is called remotely, and answers with what it returns or raises."""

    def __init__(
        self,
        *,
        expected_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
        sensitive_arguments: str | Sequence[str] = (),
        validate: bool = True,
        delivery: Literal["at_least_once", "at_most_once"] = "at_least_once",
    ) -> None:
        super().__init__(
            expected_exceptions=expected_exceptions, sensitive_arguments=sensitive_arguments
        )
        self.validate = validate
        self.delivery = delivery

    def queue_name(self, host: Host) -> str:
        return host.wire.rpc_queue(host.service_name).name

    @classmethod
    @asynccontextmanager
    async def listen_all(cls, host: Host, entrypoints: Sequence[Rpc]) -> AsyncGenerator[None]:
        server = _Server(host, entrypoints)
        transport, wire = host.transport, host.wire
        # Shared, so that it ends after the workers: a call can be taken back during a drain too.
        await host.share(Withdrawals, lambda: server.withdrawals.heard(host))
        subscription = await transport.subscribe(
            wire.rpc_queue(host.service_name), server.received, prefetch=host.settings.prefetch
        )
        try:
            yield
        finally:
            await subscription.cancel()


class _Server:
    """Takes the requests of one service."""

    def __init__(self, host: Host, entrypoints: Sequence[Rpc]) -> None:
        self.host = host
        self.wire = host.wire
        self.exchange = host.wire.rpc_exchange.name
        self.confirm = host.settings.confirm_replies
        self.withdrawals: Withdrawals[_Job] = Withdrawals()
        self.attempts = Attempts(
            host,
            host.wire.rpc_queue(host.service_name).name,
            self._work,
            as_it_came=True,
            give_up=self._given_up,
        )
        #: Answers to requests that the broker gives to somebody again, the oldest first.
        self._answered: OrderedDict[Key, Outgoing] = OrderedDict()
        mode = host.settings.validate_arguments
        self._methods = {
            entrypoint.method_name: (
                entrypoint,
                Arguments.of(
                    getattr(host.service_cls, entrypoint.method_name),
                    skip_self=not isinstance(
                        inspect.getattr_static(host.service_cls, entrypoint.method_name),
                        staticmethod,
                    ),
                    mode=mode if entrypoint.validate else "off",
                    name=f"{host.service_name}.{entrypoint.method_name}",
                ),
            )
            for entrypoint in entrypoints
        }

    def received(self, delivery: Delivery) -> None:
        request = self._request(delivery)
        if delivery.redelivered or request.resent:
            if self._is_known(delivery):
                return
            if request.late is None and self.attempts.takes(delivery, request.context.deadline):
                return
        self._serve(delivery, request)

    def _work(self, delivery: Delivery) -> None:
        """A delivery that was counted."""
        self._serve(delivery, self._request(delivery))

    def _request(self, delivery: Delivery) -> Request:
        method = delivery.routing_key.rpartition(".")[2]
        return self.wire.requests.read(Request(delivery.message, method))

    def _serve(self, delivery: Delivery, request: Request) -> None:
        try:
            entrypoint, call = self._read(delivery, request)
        except _Refused as refused:
            self.answer_error(delivery, request, refused.error, refusal=True)
            return
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with it, its caller is told
            log.warning(
                "%s.%s: a request was refused: %s: %s%s",
                self.host.service_name,
                request.method,
                type(exc).__name__,
                exc,
                "" if delivery.message.reply_to else " (it has no reply_to, so nobody was told)",
            )
            self.answer_error(delivery, request, exc)
            return
        message = delivery.message
        key = (message.reply_to, message.correlation_id)
        withdrawals = self.withdrawals
        if withdrawals.tombstones and withdrawals.withdrawn(key):
            delivery.ack()
            return
        job = _Job(self, delivery, request, key)
        encode = partial(self.wire.replies.result, delivery.message)
        job.submission = self.host.submit(entrypoint, call, job.settle, encode)
        if not job.settled:
            withdrawals.running[key] = job

    def _is_known(self, delivery: Delivery) -> bool:
        """
        Whether a request that comes again is one that runs here, or has: a connection broke
        meanwhile, ours or its caller's. It is not run twice then.
        """
        key = key_of(delivery)
        if None in key:
            return False
        job = self.withdrawals.running.get(key)
        if job is not None:
            job.came_again(delivery)
            return True
        reply = self._answered.pop(key, None)
        if reply is not None:
            delivery.answer(reply)
        return reply is not None

    def _remember(self, key: Key, reply: Outgoing) -> None:
        """*reply* is sent on the next connection, on which its request comes again too."""
        if len(reply.message.body) <= REMEMBERED_BYTES:
            self._answered[key] = reply
            if len(self._answered) > REMEMBERED:
                self._answered.popitem(last=False)

    def _read(self, delivery: Delivery, request: Request) -> tuple[Rpc, Call]:
        args, kwargs = self.wire.requests.arguments(request)
        if request.late is not None:
            log.warning("%s.%s: %s", self.host.service_name, request.method, request.late)
            raise _Refused(request.late)
        known = self._methods.get(request.method)
        if known is None:
            raise MethodNotFound(request.method)
        entrypoint, arguments = known
        bound_args, bound_kwargs = arguments.bind(args, kwargs)
        again = delivery.redelivered or request.resent
        if again and entrypoint.delivery == "at_most_once":
            raise _Refused(self._uncertain(delivery, request))
        call = Call(
            self.host.service_name,
            request.method,
            bound_args,
            bound_kwargs,
            request.context,
            "rpc",
            again,
        )
        return entrypoint, call

    def _given_up(self, delivery: Delivery, error: AioRpcError) -> None:
        request = self._request(delivery)
        self.answer_error(delivery, request, error, refusal=True)

    def _uncertain(self, delivery: Delivery, request: Request) -> DeliveryUncertain:
        by_broker = delivery.redelivered or attempts_of(delivery.message) is not None
        how = "delivered again by the broker" if by_broker else "sent again by its caller"
        error = DeliveryUncertain(
            f"{self.host.service_name}.{request.method} is at-most-once and the request was {how}: "
            "it may have run already, so it was not run. Look whether it did, then call anew"
        )
        log.warning("%s", error)
        return error

    def answer_error(
        self, delivery: Delivery, request: Request, error: BaseException, *, refusal: bool = False
    ) -> None:
        """An error that cannot be encoded, or is too large, is answered by one that says so."""
        try:
            self.answer(delivery, self.wire.replies.error(delivery.message, error, refusal=refusal))
            return
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with it, its caller is told
            substitute = AioRpcError(
                f"{type(error).__name__}, which cannot be sent: {text_of(exc)}"
            )
        try:
            self.answer(delivery, self.wire.replies.error(delivery.message, substitute))
        except Exception as exc:  # noqa: BLE001 - unacked, it would hold a place for ever
            log.error(
                "%s.%s: its caller cannot be told of %s, and gets no answer: %s",
                self.host.service_name,
                request.method,
                substitute,
                exc,
            )
            delivery.ack()

    def answer(self, delivery: Delivery, message: Message) -> bool:
        """Reply, then ack; without a ``reply_to`` ack alone, and return False."""
        reply_to = delivery.message.reply_to
        if not reply_to:
            delivery.ack()
            return False
        reply = Outgoing(
            exchange=self.exchange,
            routing_key=reply_to,
            message=message,
            confirm=self.confirm,
        )
        if not delivery.answer(reply):
            self._remember(key_of(delivery), reply)
        return True


def key_of(delivery: Delivery) -> Key:
    return (delivery.message.reply_to, delivery.message.correlation_id)


class _Refused(Exception):
    """The host, not the method, answers with ``error``."""

    def __init__(self, error: AioRpcError) -> None:
        super().__init__(error)
        self.error = error


class _Job(msgspec.Struct, eq=False):
    """One request on its way through a worker."""

    server: _Server
    delivery: Delivery
    request: Request
    key: Key
    settled: bool = False
    submission: Submission | None = None

    def withdraw(self) -> None:
        if self.submission is not None:
            self.submission.withdraw()

    def came_again(self, delivery: Delivery) -> None:
        """The newest delivery is answered; those before are done with, or were taken back."""
        self.delivery.ack()
        self.delivery = delivery

    def settle(self, outcome: Outcome) -> None:
        server, delivery, request = self.server, self.delivery, self.request
        self.settled = True
        server.withdrawals.running.pop(self.key, None)
        ending = outcome.ending
        if ending is _RETURNED:
            try:
                if not server.answer(delivery, outcome.value):
                    log.warning(
                        "%s.%s: the request has no reply_to, so nobody got its result",
                        server.host.service_name,
                        request.method,
                    )
            except Exception as exc:
                ours = isinstance(exc, AioRpcError)
                log.error(
                    "%s.%s: its result could not be sent: %s",
                    server.host.service_name,
                    request.method,
                    exc,
                    exc_info=None if ours else exc,
                )
                server.answer_error(delivery, request, exc)
        elif ending is Ending.WITHDRAWN:
            delivery.ack()
        elif ending is Ending.ABANDONED:
            server.attempts.give_back(delivery, request.context.deadline)
        else:
            assert outcome.error is not None
            server.answer_error(
                delivery, request, outcome.error, refusal=ending is Ending.TIMED_OUT
            )


# What ``@rpc`` is to a type checker. At run time the method stays the function it was.


class BoundRpcMethod(Protocol[P, R_co]):
    """An ``@rpc`` method of a proxy (or of the service itself), as type checkers see it."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...
    def call_async(self, *args: P.args, **kwargs: P.kwargs) -> RpcReply[R_co]: ...
    def with_options(
        self,
        *,
        timeout: float | None | msgspec.UnsetType = UNSET,
        headers: Any = UNSET,
        context_data: Any = UNSET,
        persistent: bool | msgspec.UnsetType = UNSET,
        confirm: bool | msgspec.UnsetType = UNSET,
        resend: bool | msgspec.UnsetType = UNSET,
        fail_fast: bool | msgspec.UnsetType = UNSET,
    ) -> BoundRpcMethod[P, R_co]: ...


class RpcMethod(Protocol[S_contra, P, R_co]):
    """An ``@rpc`` method on its class, as type checkers see it."""

    @overload
    def __get__(self, instance: None, owner: type) -> RpcMethod[S_contra, P, R_co]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundRpcMethod[P, R_co]: ...

    def __call__(self, service: S_contra, /, *args: P.args, **kwargs: P.kwargs) -> Any: ...


class _Decorate(Protocol):
    @overload
    def __call__(
        self, method: Callable[Concatenate[S, P], Awaitable[R]], /
    ) -> RpcMethod[S, P, R]: ...
    @overload
    def __call__(self, method: Callable[Concatenate[S, P], R], /) -> RpcMethod[S, P, R]: ...


@overload
def rpc(method: Callable[Concatenate[S, P], Awaitable[R]], /) -> RpcMethod[S, P, R]: ...
@overload
def rpc(method: Callable[Concatenate[S, P], R], /) -> RpcMethod[S, P, R]: ...
@overload
def rpc(
    *,
    expected_exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    sensitive_arguments: str | Sequence[str] = (),
    validate: bool = True,
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once",
) -> _Decorate: ...


def rpc(*args: Any, **kwargs: Any) -> Any:
    """
    Let a method be called remotely: ``@rpc`` or ``@rpc(...)``.

    Args:
        expected_exceptions: errors that are answers, not failures: logged as warnings.
        sensitive_arguments: names of arguments that no log may show.
        validate: check and convert arguments by their annotations (``VALIDATE_ARGUMENTS``).
        delivery: ``at_most_once`` refuses a request that is delivered or sent again with
            ``DeliveryUncertain``; ``at_least_once`` runs it again.
    """
    return Rpc.decorator(*args, **kwargs)

"""
Idempotency: calls with the same key run a method once. What all stores have in common, and the
store in the memory of one process. Awaits the end of the first call with a key.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic as now
from typing import Any, NoReturn

import msgspec

from ..call import Call
from ..checks import COUNT, FLAG, SECONDS, check
from ..exceptions import BadArguments, InProgress, RemoteError
from ..extensions import Entrypoint, Host, WorkerContext
from ..guards import Guard, GuardedMethod, StoredError
from ..wire.keys import digest_of, key_of
from ..wire.message import Message
from ..wire.requests import Request
from ..wire.signatures import signature_of, takes_self, unwrapped

__all__ = ["DAY", "Asked", "Idempotency", "InMemoryIdempotency"]

DAY = 86400.0
#: Seconds that a call without a deadline waits for the first call with its key.
_LONGEST_WAIT = 30.0
#: Seconds before the deadline at which a call stops waiting, so that its answer arrives in time.
_MARGIN = 0.5

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Asked(msgspec.Struct, frozen=True):
    """
    A call with a key.

    Attributes:
        arguments: their digest.
        until: the ``time.monotonic()`` until which it waits for the first call with its key.
    """

    service: str
    method: str
    scope: str
    key: str
    arguments: str
    until: float

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What two calls have in common that run once."""
        return self.service, self.method, self.scope, self.key

    def require_same(self, arguments: str) -> None:
        """
        Check the digest of the *arguments* of the first call with this key.

        Raises:
            BadArguments: they are others.
        """
        if arguments != self.arguments:
            error = BadArguments(
                f"{self.service}.{self.method}: the idempotency key {self.key!r} was used with "
                "other arguments: use a new key for another call",
                {"idempotency_key": ["was used with other arguments"]},
            )
            error.refuses_call = True
            raise error

    def in_progress(self, *, sure: bool = True) -> NoReturn:
        """Raise InProgress. Unless *sure*, the store cannot tell whether there is a first call."""
        key = f"the idempotency key {self.key!r}"
        found = (
            f"the first call with {key} still runs"
            if sure
            else f"the database did not say in time whether a first call with {key} runs"
        )
        error = InProgress(
            f"{self.service}.{self.method}: {found}: call again later with the same key, or with a "
            "longer timeout"
        )
        error.refuses_call = True
        raise error


class Idempotency(Guard[str | None]):
    """
    A store of idempotency keys and their answers. The value for a worker is the key of its call, or
    None.
    """

    store_errors: bool

    def guards(self, entrypoint: Entrypoint) -> bool:
        return entrypoint.idempotent

    def value(self, worker_ctx: WorkerContext) -> str | None:
        key = key_of(worker_ctx.call.message)
        return None if key is None else key.text

    async def run(self, worker_ctx: WorkerContext, method: GuardedMethod) -> Any:
        asked = _asked(worker_ctx)
        if asked is None:
            return (await method()).result
        return await self.once(worker_ctx, asked, method)

    async def once(self, worker_ctx: WorkerContext, asked: Asked, method: GuardedMethod) -> Any:
        """
        Return the answer to *asked*, whose *method* may have run already.

        Raises:
            InProgress: it still runs.
            BadArguments: the key was used with other arguments.
            StoredError: it ended with an expected error.
        """
        raise NotImplementedError

    def kept_error(
        self, worker_ctx: WorkerContext, method: GuardedMethod, error: BaseException
    ) -> Message | None:
        """Return the reply with *error* of *method*, if it is an answer to store."""
        expected = worker_ctx.entrypoint.expected_exceptions
        if not (self.store_errors and isinstance(error, expected)):
            return None
        replies = worker_ctx.host.wire.replies
        return replies.error(worker_ctx.call.message, error, secrets=method.secrets())

    def answer(self, worker_ctx: WorkerContext, reply: Message) -> Any:
        """
        Return the result in the stored *reply*.

        Raises:
            StoredError: the method ended with an error.
        """
        try:
            return worker_ctx.host.wire.replies.decode(reply)
        except RemoteError as error:
            raise StoredError(error.exc_type, error.value, error.exc_args, error.exc_path) from None


def _asked(worker_ctx: WorkerContext) -> Asked | None:
    """Return the call of *worker_ctx* if it has a key."""
    call = worker_ctx.call
    message = call.message
    if (key := key_of(message)) is None:
        return None
    requests = worker_ctx.host.wire.requests
    request = requests.read(Request(message, call.method))
    args, kwargs = requests.arguments(request)  # as sent: a middleware may change those of `call`
    names = _positional_names(worker_ctx.host.service_cls, call.method)
    digest = digest_of(names, args, kwargs)
    return Asked(call.service, call.method, key.scope, key.text, digest, _until(call))


@functools.lru_cache(1000)
def _positional_names(service_cls: type, method: str) -> list[str]:
    function = unwrapped(getattr(service_cls, method))
    parameters = list(signature_of(function).parameters.values())
    static = isinstance(inspect.getattr_static(service_cls, method), staticmethod)
    if not static and takes_self(function, parameters):
        del parameters[0]
    return [each.name for each in parameters if each.kind in _POSITIONAL]


def _until(call: Call) -> float:
    at, deadline = now(), call.context.deadline
    if deadline is None:
        return at + _LONGEST_WAIT
    left = deadline.at - at
    return at + max(0.0, left - min(_MARGIN, left / 4))


class _First(msgspec.Struct, eq=False):
    """
    The first call with a key.

    Attributes:
        reply: its answer, once the method has ended with one.
        error: the error with which the method ended, if *reply* has it.
    """

    identity: tuple[str, ...]
    arguments: str
    ended: asyncio.Future[None]
    reply: Message | None = None
    error: BaseException | None = None


class _Kept(msgspec.Struct, frozen=True):
    """A stored answer; it expires at a ``time.monotonic()``."""

    arguments: str
    reply: Message
    expires_at: float


class _Memory:
    """What the containers of one process share that have the same store, while one of them runs."""

    def __init__(self) -> None:
        self.containers = 0
        self.firsts: dict[tuple[str, ...], _First] = {}
        #: The first calls by the ids of their worker contexts.
        self.by_worker: dict[int, _First] = {}
        #: The oldest first.
        self.kept: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()


class InMemoryIdempotency(Idempotency):
    """
    A store of idempotency keys in the memory of one process, for tests and for methods without a
    database::

        class Prices:
            name = "prices"
            idempotency = InMemoryIdempotency()

            @rpc(idempotent=True)
            async def reserve(self, title: str) -> str: ...

    It promises less than ``SqlIdempotency``: another process does not know the keys, and neither
    does this one after a restart. If the process dies between the commit of the method and the ack
    of its request, the broker delivers the request again, and the method runs again.

    Args:
        retention: seconds for which an answer is kept.
        store_errors: keep expected exceptions too. Otherwise a call that failed may run again.
        max_answers: answers that are kept; the oldest are dropped first.
    """

    def __init__(
        self, *, retention: float = DAY, store_errors: bool = False, max_answers: int = 10_000
    ) -> None:
        given = {"retention": retention, "store_errors": store_errors, "max_answers": max_answers}
        kinds = {"retention": SECONDS, "store_errors": FLAG, "max_answers": COUNT}
        check("InMemoryIdempotency()", given, kinds)
        self.retention, self.store_errors, self._most = retention, store_errors, max_answers
        self._memory = _Memory()

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        memory = self._memory
        memory.containers += 1
        try:
            yield
        finally:
            memory.containers -= 1
            if not memory.containers:
                memory.kept.clear()

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[str | None]:
        # A guard's dependency closes last: the others have committed, or failed to.
        try:
            yield self.value(worker_ctx)
        except BaseException as error:
            self._ended(worker_ctx, error)
            raise
        self._ended(worker_ctx, None)

    async def once(self, worker_ctx: WorkerContext, asked: Asked, method: GuardedMethod) -> Any:
        memory, identity = self._memory, asked.identity
        while True:
            if (kept := self._found(identity)) is not None:
                asked.require_same(kept.arguments)
                return self.answer(worker_ctx, kept.reply)
            if (first := memory.firsts.get(identity)) is None:
                break
            asked.require_same(first.arguments)
            await asyncio.wait((first.ended,), timeout=max(0.0, asked.until - now()))
            if not first.ended.done():
                asked.in_progress()
        first = _First(identity, asked.arguments, asyncio.get_running_loop().create_future())
        memory.firsts[identity] = memory.by_worker[id(worker_ctx)] = first
        try:
            returned = await method()
        except Exception as error:
            first.reply, first.error = self.kept_error(worker_ctx, method, error), error
            raise
        first.reply = returned.encoded
        return returned.result

    def _found(self, identity: tuple[str, ...]) -> _Kept | None:
        kept = self._memory.kept
        while kept and next(iter(kept.values())).expires_at <= now():
            kept.popitem(last=False)
        return kept.get(identity)

    def _ended(self, worker_ctx: WorkerContext, error: BaseException | None) -> None:
        """Keep the answer of a worker whose dependencies have closed, with *error* or without."""
        memory = self._memory
        if (first := memory.by_worker.pop(id(worker_ctx), None)) is None:
            return
        del memory.firsts[first.identity]
        if first.reply is not None and first.error is error:
            expires_at = now() + self.retention
            memory.kept[first.identity] = _Kept(first.arguments, first.reply, expires_at)
            if len(memory.kept) > self._most:
                memory.kept.popitem(last=False)
        first.error = None  # its traceback has the frames of the call
        first.ended.set_result(None)

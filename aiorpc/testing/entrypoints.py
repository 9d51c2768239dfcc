"""
Entrypoints of a container in a test: which of them fire, firing one by hand, waiting until one has
fired. Knows containers and entrypoints, and nothing of what carries their messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeAlias

from ..call import Call
from ..context import EMPTY, Context
from ..entrypoints.events import EventHandler
from ..entrypoints.rpc import Rpc
from ..exceptions import AioRpcError, ConfigurationError
from ..extensions import Ending, Entrypoint, Host, Outcome, Submission, WorkerContext
from ..hosting.container import ServiceContainer, Submit

__all__ = [
    "Disguised",
    "EntrypointResult",
    "dummy",
    "entrypoint_hook",
    "entrypoint_named",
    "entrypoint_waiter",
    "restrict_entrypoints",
]

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]
#: ``(worker_ctx, result, exc_info) -> bool``: whether this call is the one waited for.
WaiterCallback: TypeAlias = Callable[[WorkerContext, Any, "ExcInfo | None"], bool]


def entrypoint_named(container: ServiceContainer, method: str) -> Entrypoint:
    """
    The entrypoint that fires *method*, the first one if several do.

    Raises:
        ConfigurationError: there is none; the text lists those there are.
    """
    for entrypoint in container.entrypoints:
        if entrypoint.method_name == method:
            return entrypoint
    methods = {entrypoint.method_name for entrypoint in container.entrypoints}
    raise ConfigurationError(
        f"{container.service_cls.__name__} has no entrypoint {method!r}; it has: "
        f"{', '.join(sorted(methods)) or 'none'}"
    )


def restrict_entrypoints(container: ServiceContainer, *methods: str) -> None:
    """
    Let *container*, before it starts, fire these methods only: with none, nothing at all.

    Raises:
        ConfigurationError: a method has no entrypoint; the text lists those there are.
        RuntimeError: the container runs already.
    """
    if container.started:
        raise RuntimeError(f"restrict entrypoints of {container!r} before it starts")
    for method in methods:
        entrypoint_named(container, method)
    container.entrypoints = [
        entrypoint for entrypoint in container.entrypoints if entrypoint.method_name in methods
    ]


class entrypoint_hook:  # noqa: N801 - used like a function
    """
    Runs *method* of a started *container* as its entrypoint would, with all its dependencies, and
    gives its result, or raises what it raised, when they have closed::

        async with entrypoint_hook(container, "remote_method") as remote_method:
            assert await remote_method("hello") == "hello-x-y"

    Or ``hook = await entrypoint_hook(...)``. No message is sent: arguments and result are the
    objects themselves, and are neither checked nor converted.

    Args:
        context_data: what came with the call.
        timeout: seconds that one call may take; then it is cancelled.

    Raises:
        ConfigurationError: no entrypoint fires *method*; the text lists those that there are.
        TimeoutError: *timeout* passed.
        AioRpcError: the container stopped before the method had run; or the method raised what is
            no ``Exception``, such as ``CancelledError``, which is the ``__cause__`` then.
    """

    def __init__(
        self,
        container: ServiceContainer,
        method: str,
        context_data: Mapping[str, Any] | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        self._container = container
        self._entrypoint = entrypoint_named(container, method)
        self._context_data = context_data
        self._timeout = timeout

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        container, entrypoint = self._container, self._entrypoint
        if not container.started:
            raise RuntimeError(
                f"start {container!r} before you fire {entrypoint.method_name}: "
                "`async with container:`"
            )
        call = Call(
            container.service_name,
            entrypoint.method_name,
            args,
            kwargs,
            Context(data=dict(self._context_data) if self._context_data else EMPTY),
            _kind_of(entrypoint),
        )
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        worker = container.submit(entrypoint, call, done.set_result)
        try:
            await asyncio.wait((done,), timeout=self._timeout)
        finally:
            if not done.done():
                worker.withdraw()
        if not done.done():
            # until its dependencies have closed
            await asyncio.wait((done,), timeout=container.cleanup_timeout)
            raise TimeoutError(
                f"{call} did not end within {self._timeout:g} s, the timeout of entrypoint_hook, "
                "and was cancelled"
            )
        outcome = done.result()
        if outcome.error is not None:
            raise _raisable(outcome.error, str(call))
        if outcome.ending is not Ending.RETURNED:
            raise AioRpcError(f"{call} did not run to its end: {outcome.ending.value}")
        return outcome.value

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()  # a generator is what `await` runs
        return self


def _raisable(error: BaseException, who: str) -> Exception:
    """*error*; but a method's CancelledError, or SystemExit, is not to cancel, or end, a test."""
    if isinstance(error, Exception):
        return error
    told = AioRpcError(f"{who} raised {type(error).__name__}({error})")
    told.__cause__ = error
    return told


def _kind_of(entrypoint: Entrypoint) -> str:
    """What the entrypoint itself would say of a call that it fires."""
    match entrypoint:
        case Rpc():
            return "rpc"
        case EventHandler():
            return "event"
    return type(entrypoint).__name__.lower()


class Disguised(Outcome, eq=False, kw_only=True):
    """What a fault lets the caller's side see of an outcome; a test is to see the *truth*."""

    truth: Outcome


class EntrypointResult:
    """What the call that was waited for came to."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None

    def get(self) -> Any:
        """
        What the method returned.

        Raises:
            Exception: what it raised.
            AioRpcError: what it raised is no ``Exception``, but the ``__cause__`` of this.
            RuntimeError: it has not run yet.
        """
        if not self._done:
            raise RuntimeError(
                f"{self._label} has not run yet; its result is there after the block of "
                "entrypoint_waiter"
            )
        if self._error is not None:
            raise _raisable(self._error, self._label)
        return self._value

    def _set(self, value: Any, error: BaseException | None) -> None:
        self._done, self._value, self._error = True, value, error


class entrypoint_waiter:  # noqa: N801 - used like a function
    """
    Waits, at the end of its block, until *method* of *container* has run and its dependencies have
    closed, whoever fired it::

        async with entrypoint_waiter(container, "handle_event") as result:
            await dispatch("service_x", "something_happened", {"id": 1})
        assert result.get() == 1

    Args:
        timeout: seconds to wait, counted from the end of the block; ``None`` for no limit.
        callback: ``(worker_ctx, result, exc_info) -> bool``, called with each call of the method
            that ends, until it says that this is the one; by default the first one is.
            ``exc_info`` is ``None`` or as of :func:`sys.exc_info`; ``worker_ctx.service`` is
            ``None``, since the instance is gone by then.

    Raises:
        ConfigurationError: no entrypoint fires *method*; the text lists those that there are.
        entrypoint_waiter.Timeout: a ``TimeoutError``: *timeout* passed.
        Exception: what made the container fail meanwhile, or what *callback* raised.
    """

    class Timeout(TimeoutError):
        """The method did not run in time."""

    def __init__(
        self,
        container: ServiceContainer,
        method: str,
        timeout: float | None = 30.0,
        callback: WaiterCallback | None = None,
    ) -> None:
        entrypoint_named(container, method)  # a misspelt name is an error now, no timeout later
        self._container = container
        self._method = method
        self._timeout = timeout
        self._callback = callback
        self._label = f"{container.service_name}.{method}"
        self._ended = 0

    async def __aenter__(self) -> EntrypointResult:
        self._matched: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._result = EntrypointResult(self._label)
        self._remove = self._container.intercept(self._watch)
        return self._result

    async def __aexit__(self, exc_type: object, exc: object, tb: object) -> None:
        try:
            if exc_type is None:
                await self._wait()
        finally:
            self._remove()
            self._matched.cancel()

    async def _wait(self) -> None:
        if not self._container.started:
            raise RuntimeError(f"{self._container!r} was not started, so {self._label} cannot run")
        stopped = asyncio.ensure_future(self._container.wait())
        try:
            await asyncio.wait(
                (self._matched, stopped),
                timeout=self._timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._matched.done():
                return self._matched.result()
            if stopped.done():
                stopped.result()
                raise AioRpcError(f"{self._label} did not run before {self._container!r} stopped")
        finally:
            stopped.cancel()
            await asyncio.gather(stopped, return_exceptions=True)
        others = f"; {self._ended} other call(s) of it ended meanwhile" if self._ended else ""
        raise self.Timeout(f"{self._label} did not run within {self._timeout:g} s{others}")

    def _watch(self, submit: Submit) -> Submit:
        def watched(
            entrypoint: Entrypoint,
            call: Call,
            settle: Callable[[Outcome], None],
            encode: Callable[[Any], Any] | None = None,
        ) -> Submission:
            if entrypoint.method_name != self._method:
                return submit(entrypoint, call, settle, encode)
            returned: list[Any] = [None]

            def encoding(result: Any) -> Any:
                returned[0] = result
                return result if encode is None else encode(result)

            def settling(outcome: Outcome) -> None:
                try:
                    settle(outcome)
                finally:
                    worker_ctx = WorkerContext(self._container, entrypoint, None, call)
                    self._ran(worker_ctx, returned[0], outcome)

            return submit(entrypoint, call, settling, encoding)

        return watched

    def _ran(self, worker_ctx: WorkerContext, value: Any, outcome: Outcome) -> None:
        while isinstance(outcome, Disguised):
            outcome = outcome.truth
        if self._matched.done() or outcome.ending is Ending.ABANDONED:
            return
        error = outcome.error
        if outcome.ending is Ending.WITHDRAWN:
            error = AioRpcError(f"{self._label} was taken back by its caller")
        if error is not None:
            value = None
        try:
            if self._callback is None or self._callback(worker_ctx, value, _exc_info(error)):
                self._result._set(value, error)
                self._matched.set_result(None)
            else:
                self._ended += 1
        except Exception as exc:  # noqa: BLE001 - the test's own: raised where it waits
            self._matched.set_exception(exc)


def _exc_info(error: BaseException | None) -> ExcInfo | None:
    return None if error is None else (type(error), error, error.__traceback__)


class Dummy(Entrypoint):
    """Never fires by itself: for methods that a test runs by :class:`entrypoint_hook`."""

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        yield


dummy = Dummy.decorator

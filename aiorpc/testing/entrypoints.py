"""
Controls a container's entrypoints in a test: restricts them, runs one, or waits for a run. These
tools act between a container and its workers, so this file imports no transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

from ..call import Call
from ..context import EMPTY, Context
from ..exceptions import AioRpcError, ConfigurationError
from ..extensions import Ending, Entrypoint, Host, Outcome, Submission, WorkerContext
from ..hosting.container import ServiceContainer
from ..hosting.pool import Submit

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
#: Returns whether the test waits for this call.
WaiterCallback: TypeAlias = Callable[[WorkerContext, Any, "ExcInfo | None"], bool]


def entrypoint_named(container: ServiceContainer, method: str) -> Entrypoint:
    """
    Return the entrypoint of *method*, or the first of several entrypoints.

    Raises:
        ConfigurationError: *method* has no entrypoint; the text lists the methods that have one.
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
    Limit *container* to the entrypoints of *methods*; without *methods*, it has no entrypoint. Call
    this function before the container starts.

    Raises:
        ConfigurationError: a method has no entrypoint; the text lists the methods that have one.
        RuntimeError: the container has started already.
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
    Runs *method* of a started *container* like its entrypoint, with all dependencies. After the
    dependencies have closed, the call returns the method's result or raises its error::

        async with entrypoint_hook(container, "remote_method") as remote_method:
            assert await remote_method("hello") == "hello-x-y"

    ``hook = await entrypoint_hook(...)`` works too. No message is sent, so arguments and result are
    not checked or converted.

    Args:
        context_data: the context data of the call.
        timeout: seconds after which the hook cancels the call; ``None``: unlimited.

    Raises:
        ConfigurationError: no entrypoint fires *method*; the text lists the methods that have one.
        RuntimeError: the container has not started.
        entrypoint_waiter.Timeout: the call took longer than *timeout*.
        AioRpcError: the container stopped before the method ended, or the method raised a
            ``BaseException`` such as ``CancelledError``, which is then the ``__cause__``.
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
                f"start {container!r} before you run {entrypoint.method_name}: "
                "`async with container:`"
            )
        context = Context(data=dict(self._context_data or EMPTY))
        kind = getattr(entrypoint, "kind", type(entrypoint).__name__.lower())
        call = container.new_call(entrypoint, args, kwargs, context, kind)
        scope = asyncio.timeout(self._timeout)
        try:
            async with scope:
                return await container.work(entrypoint, call)
        except TimeoutError:
            if not scope.expired():
                raise  # the method raised it
            raise entrypoint_waiter.Timeout(
                f"{call} did not end within {self._timeout:g} s, the timeout of entrypoint_hook, "
                "and was cancelled"
            ) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()  # `await` needs a generator
        return self


class Disguised(Outcome, eq=False, kw_only=True):
    """A false outcome that a fault shows to the entrypoint. *truth* is the real outcome."""

    truth: Outcome


class EntrypointResult:
    """The result of the call that an ``entrypoint_waiter`` waits for."""

    def __init__(self, label: str) -> None:
        self._label = label
        #: The method's result and its error (one is None), or the error of the callback.
        self._ended: asyncio.Future[tuple[Any, BaseException | None]] = (
            asyncio.get_running_loop().create_future()
        )

    def get(self) -> Any:
        """
        Return the method's result.

        Raises:
            Exception: the error that the method raised.
            AioRpcError: the method raised a ``BaseException``, which is the ``__cause__``. A
                ``CancelledError`` of the method must not cancel the test.
            RuntimeError: the method has not run yet.
        """
        if not self._ended.done() or self._ended.cancelled():
            raise RuntimeError(
                f"{self._label} has not run yet: call get() after the block of entrypoint_waiter"
            )
        value, error = self._ended.result()
        if error is None:
            return value
        if isinstance(error, Exception):
            raise error
        raise AioRpcError(f"{self._label} raised {type(error).__name__}({error})") from error


class entrypoint_waiter:  # noqa: N801 - used like a function
    """
    Waits, at the end of its block, until *method* of *container* has run and its dependencies have
    closed. Any caller or event may start the method::

        async with entrypoint_waiter(container, "handle_event") as result:
            await dispatch("service_x", "something_happened", {"id": 1})
        assert result.get() == 1

    Args:
        timeout: seconds to wait after the end of the block; ``None``: unlimited.
        callback: ``(worker_ctx, result, exc_info) -> bool``. The waiter calls this function when a
            call of the method ends, and stops waiting when the function returns True. By default
            it stops at the first call. ``exc_info`` is ``None`` or like :func:`sys.exc_info`.
            ``worker_ctx.service`` is ``None``, because the instance no longer exists.

    Raises:
        ConfigurationError: no entrypoint fires *method*; the text lists the methods that have one.
        entrypoint_waiter.Timeout: the method did not run within *timeout*.
        Exception: the container failed with this error, or *callback* raised it.
    """

    class Timeout(TimeoutError):
        """The method did not run, or did not end, within the timeout. Also of entrypoint_hook."""

    def __init__(
        self,
        container: ServiceContainer,
        method: str,
        timeout: float | None = 30.0,
        callback: WaiterCallback | None = None,
    ) -> None:
        entrypoint_named(container, method)  # refuse a misspelt name at once
        self._container = container
        self._method = method
        self._timeout = timeout
        self._callback = callback
        self._label = f"{container.service_name}.{method}"
        self._ended = 0

    async def __aenter__(self) -> EntrypointResult:
        result = EntrypointResult(self._label)
        self._matched = result._ended
        self._remove = self._container.intercept(lambda submit: partial(self._watched, submit))
        return result

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
                self._matched.result()
                return
            if stopped.done():
                stopped.result()
                raise AioRpcError(f"{self._label} did not run before {self._container!r} stopped")
        finally:
            stopped.cancel()
            await asyncio.gather(stopped, return_exceptions=True)
        others = f"; {self._ended} other call(s) of it ended meanwhile" if self._ended else ""
        raise self.Timeout(f"{self._label} did not run within {self._timeout:g} s{others}")

    def _watched(
        self,
        submit: Submit,
        entrypoint: Entrypoint,
        call: Call,
        settle: Callable[[Outcome], None],
        encode: Callable[[Any], Any] | None = None,
    ) -> Submission:
        if entrypoint.method_name != self._method:
            return submit(entrypoint, call, settle, encode)
        returned: Any = None

        def encoding(result: Any) -> Any:
            nonlocal returned
            returned = result
            return result if encode is None else encode(result)

        def settling(outcome: Outcome) -> None:
            try:
                settle(outcome)
            finally:
                self._ran(WorkerContext(self._container, entrypoint, None, call), returned, outcome)

        return submit(entrypoint, call, settling, encoding)

    def _ran(self, worker_ctx: WorkerContext, value: Any, outcome: Outcome) -> None:
        while isinstance(outcome, Disguised):
            outcome = outcome.truth
        if self._matched.done() or outcome.ending is Ending.ABANDONED:
            return
        error = outcome.error
        if outcome.ending is Ending.CANCELLED:
            error = AioRpcError(f"the caller of {self._label} cancelled the call")
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        value = value if error is None else None
        try:
            if self._callback is None or self._callback(worker_ctx, value, exc_info):
                self._matched.set_result((value, error))
            else:
                self._ended += 1
        except Exception as exc:  # noqa: BLE001 - the callback's: raised where the test waits
            self._matched.set_exception(exc)


class Dummy(Entrypoint):
    """An entrypoint that never runs its method. Only :class:`entrypoint_hook` runs the method."""

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        yield


dummy = Dummy.decorator

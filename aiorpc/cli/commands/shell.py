"""
``aiorpc shell``: a Python prompt with a cluster at hand and top-level ``await``.

The event loop runs in a thread of its own, also while the prompt waits: connections stay alive, and
Ctrl-C is the prompt's. All that is typed runs in the loop's thread, so ``call_async`` works too.
"""

from __future__ import annotations

import ast
import asyncio
import code
import concurrent.futures
import inspect
import logging
import math
import os
import sys
import threading
import time
import types
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Annotated, Any, TypeVar

import typer

from ... import __version__
from ...calling.proxies import ClusterProxy
from ...calling.standalone import ClusterRpcProxy, Dispatch, event_dispatcher
from ...config import Settings
from ...exceptions import ConnectionLost
from ..exit_codes import ExitCode
from ..options import Broker, ConfigFile, Debug, Define, finite
from ..output import print_note, print_traceback
from ..settings import settings_of
from .call import CONNECT_TIMEOUT

__all__ = ["shell"]

log = logging.getLogger("aiorpc")

T = TypeVar("T")

#: Seconds after which a wait looks up, for signals.
LOOK_UP = 0.1
#: Seconds that the connections may take to close, and then the loop to stop.
CLOSING, STOPPING = 5.0, 1.0

BANNER = """\
aiorpc {version}, Python {python}, {broker}
  await n.rpc.service.method("hello")                     call a method
  await n.dispatch_event("service", "type", {{"id": 1}})    dispatch an event
  n.config["AMQP_URI"]                                    the configuration
Ctrl-D leaves."""


def shell(
    config: ConfigFile = None,
    define: Define = None,
    broker: Broker = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            "-t",
            metavar="SECONDS",
            min=0.001,
            callback=finite,
            show_default="RPC_TIMEOUT, or 30",
            help="How long a call may take.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """
    A Python prompt with top-level await, and the cluster as n.

    What is piped in runs as a script: an exception ends it with exit code 1.
    """
    settings = settings_of(config, define, broker)
    with _loop_in_thread() as loop:
        opened = AsyncExitStack()
        log.setLevel(logging.CRITICAL)  # whether the broker is there, the outcome tells
        n = loop.wait(opened.enter_async_context(_cluster(settings, timeout)))
        log.setLevel(logging.NOTSET)
        console = Console(loop, {"__name__": "__console__", "__doc__": None, "n": n})
        try:
            if sys.stdin.isatty():
                console.startup()
                console.interact(_banner(settings), exitmsg="")
            else:
                _run_script(console, sys.stdin.read())
        finally:
            loop.wait(opened.aclose(), CLOSING)


class Cluster:
    """What the shell calls ``n``: ``rpc``, ``dispatch_event`` and ``config``, as in Nameko."""

    def __init__(self, rpc: ClusterProxy, dispatch: Dispatch, config: Mapping[str, Any]) -> None:
        self.rpc = rpc
        self.config = config
        self._dispatch = dispatch

    async def dispatch_event(self, service: str, event_type: str, payload: Any = None) -> None:
        """Dispatch an event in the name of *service*."""
        await self._dispatch(service, event_type, payload)

    def __repr__(self) -> str:
        return "<aiorpc cluster: rpc, dispatch_event, config>"


@asynccontextmanager
async def _cluster(settings: Settings, timeout: float | None) -> AsyncGenerator[Cluster]:
    limit = settings.rpc_timeout if timeout is None else timeout
    brief = settings.with_defines({"RPC_TIMEOUT": min(limit or CONNECT_TIMEOUT, CONNECT_TIMEOUT)})
    cluster = ClusterRpcProxy(settings, timeout=limit)
    async with AsyncExitStack() as opened:
        try:
            # The cluster's own bound is that of a call, which somebody at a prompt did not mean.
            async with asyncio.timeout(2 * CONNECT_TIMEOUT):
                dispatch = await opened.enter_async_context(event_dispatcher(brief))
                rpc = await opened.enter_async_context(cluster)
        except TimeoutError:
            urls = "; ".join(str(url) for url in settings.broker_urls)
            raise ConnectionLost(
                f"{urls} did not answer within {2 * CONNECT_TIMEOUT:g} s"
            ) from None
        yield Cluster(rpc, dispatch, settings.raw)


def _banner(settings: Settings) -> str:
    return BANNER.format(
        version=__version__,
        python=sys.version.split()[0],
        broker="; ".join(str(url) for url in settings.broker_urls),
    )


class LoopThread:
    """An event loop in a thread, and how the main thread waits for what runs there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def wait(self, coroutine: Coroutine[Any, Any, T], within: float = math.inf) -> T | None:
        """
        The result of *coroutine*, or ``None`` if there is none *within* so many seconds; that, and
        Ctrl-C, cancel it.
        """
        running = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        ends = time.monotonic() + within
        try:
            # Now and then it looks up: a Ctrl-C in the moment before a wait without a bound begins
            # would be heard at its end.
            while not concurrent.futures.wait((running,), LOOK_UP).done:
                if time.monotonic() > ends:
                    running.cancel()
                    return None
            return running.result()
        except KeyboardInterrupt:
            running.cancel()
            raise
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None


@contextmanager
def _loop_in_thread() -> Iterator[LoopThread]:
    runner = asyncio.Runner()
    loop = runner.get_loop()
    thread = threading.Thread(target=loop.run_forever, name="aiorpc shell", daemon=True)
    thread.start()
    try:
        yield LoopThread(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        with suppress(KeyboardInterrupt):  # once more, by somebody who has no patience
            thread.join(STOPPING)
        if thread.is_alive():
            # A line that blocks: nothing reaches it, and a loop that runs cannot be closed.
            print_note("ending without the line that does not return")
            sys.stdout.flush()
            os._exit(ExitCode.INTERRUPTED)
        runner.close()


class Console(code.InteractiveConsole):
    """The prompt of Python, with ``await``."""

    def __init__(self, loop: LoopThread, namespace: dict[str, Any]) -> None:
        super().__init__(namespace)
        self.namespace = namespace
        self._loop = loop
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    def runcode(self, code: types.CodeType) -> None:
        try:
            self.run(code)
        except (SystemExit, KeyboardInterrupt):
            raise  # interact() knows both
        except BaseException as error:  # noqa: BLE001 - whatever was typed
            print_traceback(error)

    def run(self, code: types.CodeType) -> None:
        """Run *code* in the loop's thread, and raise what it raises."""
        leaving = self._loop.wait(_evaluate(types.FunctionType(code, self.namespace)))
        if leaving is not None:
            raise leaving

    def startup(self) -> None:
        """Completion by Tab, and PYTHONSTARTUP, as Python's own prompt has them."""
        try:
            import readline
            import rlcompleter
        except ImportError:
            pass
        else:
            readline.set_completer(rlcompleter.Completer(self.namespace).complete)
            readline.parse_and_bind("tab: complete")
        path = os.environ.get("PYTHONSTARTUP")
        if not path:
            return
        try:
            with open(path, encoding="utf-8") as file:
                source = file.read()
            self.runcode(compile(source, path, "exec", dont_inherit=True))
        except (OSError, SyntaxError, ValueError) as error:
            print_note(f"PYTHONSTARTUP={path}: {error}")


async def _evaluate(function: types.FunctionType) -> BaseException | None:
    try:
        value = function()
        if inspect.iscoroutine(value):
            await value
    except (SystemExit, KeyboardInterrupt) as leaving:
        return leaving  # raised here, it would end the loop, and then nothing could be closed
    return None


def _run_script(console: Console, source: str) -> None:
    try:
        # Not with what this module has from __future__.
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        console.run(compile(source, "<stdin>", "exec", flags, dont_inherit=True))
    except Exception as error:  # noqa: BLE001 - whatever was piped in
        print_traceback(error)
        raise typer.Exit(ExitCode.FAILED) from None

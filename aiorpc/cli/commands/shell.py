"""
``aiorpc shell``: a Python prompt with top-level ``await`` and the cluster as ``n``.

The event loop runs in a separate thread, so connections stay alive while the prompt waits, and
Ctrl-C reaches the prompt. The loop's thread runs all typed code, so ``call_async`` works too.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import code
import inspect
import logging
import os
import sys
import threading
import types
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ... import __version__
from ...calling.proxies import ClusterProxy
from ...calling.standalone import ClusterRpcProxy, StandaloneDispatch, event_dispatcher
from ...config import Settings
from ...exceptions import ConnectionLost
from ...from_thread import Bridge
from ...logs import logger
from ..calls import CONNECT_TIMEOUT
from ..output import ExitCode, print_note, print_traceback
from ..parser import Parser, add_settings, add_timeout, settings_of

__all__ = ["configure", "execute"]

log = logger("aiorpc")

#: Seconds for the connections to close, and then seconds for the loop to stop.
CLOSING, STOPPING = 5.0, 1.0

ARGUMENTS = ""

DESCRIPTION = """\
Input from a pipe runs as a script: an exception ends it with exit code 1."""

EXAMPLES = """\
  $ aiorpc shell --broker amqp://guest:guest@localhost/
  $ echo 'print(await n.rpc.service_x.remote_method("hello"))' | aiorpc shell
"""

BANNER = """\
aiorpc {version}, Python {python}, {broker}
  await n.rpc.service.method("hello")                     call a method
  await n.dispatch_event("service", "type", {{"id": 1}})    dispatch an event
  n.config["AMQP_URI"]                                    the configuration
Ctrl-D leaves."""


def configure(parser: Parser) -> None:
    add_settings(parser)
    add_timeout(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Run the prompt, or the script on stdin, and return the exit status."""
    settings = settings_of(arguments)
    with _loop_in_thread() as loop:
        # Its functions make the coroutines in the loop: Ctrl-C cannot come before that.
        bridge, opened = Bridge(loop), AsyncExitStack()
        log.setLevel(logging.CRITICAL)  # an error already reports a lost broker
        cluster = partial(_cluster, settings, arguments.timeout)
        n = bridge.run(lambda: opened.enter_async_context(cluster()))
        log.setLevel(logging.NOTSET)
        console = Console(bridge, {"__name__": "__console__", "__doc__": None, "n": n})
        try:
            if not sys.stdin.isatty():
                return _run_script(console, sys.stdin.read())
            console.startup()
            python = sys.version.split()[0]
            banner = BANNER.format(version=__version__, python=python, broker=_broker(settings))
            console.interact(banner, exitmsg="")
            return ExitCode.OK
        finally:
            _close(loop, opened)


@dataclass(repr=False)
class Cluster:
    """The shell's ``n``. It has ``rpc``, ``dispatch_event`` and ``config``, as in Nameko."""

    rpc: ClusterProxy
    dispatch_event: StandaloneDispatch
    config: Mapping[str, Any]

    def __repr__(self) -> str:
        return "<aiorpc cluster: rpc, dispatch_event, config>"


@asynccontextmanager
async def _cluster(settings: Settings, timeout: float | None) -> AsyncGenerator[Cluster]:
    limit = settings.rpc_timeout if timeout is None else timeout
    brief = settings.with_defines({"RPC_TIMEOUT": min(limit or CONNECT_TIMEOUT, CONNECT_TIMEOUT)})
    cluster = ClusterRpcProxy(settings, timeout=limit)
    async with AsyncExitStack() as opened:
        try:
            # The cluster's timeout is for calls, and too long for a connection to the broker.
            async with asyncio.timeout(2 * CONNECT_TIMEOUT):
                dispatch = await opened.enter_async_context(event_dispatcher(brief))
                rpc = await opened.enter_async_context(cluster)
        except TimeoutError:
            seconds = f"{2 * CONNECT_TIMEOUT:g} s"
            raise ConnectionLost(f"{_broker(settings)} did not answer within {seconds}") from None
        yield Cluster(rpc, dispatch, settings.raw)


def _broker(settings: Settings) -> str:
    return "; ".join(map(str, settings.broker_urls))


def _close(loop: asyncio.AbstractEventLoop, opened: AsyncExitStack) -> None:
    """Close *opened* in *loop*, and wait at most :data:`CLOSING` seconds: a line may block it."""
    closed = threading.Event()

    def begin() -> None:
        loop.create_task(opened.aclose()).add_done_callback(lambda task: closed.set())

    loop.call_soon_threadsafe(begin)
    closed.wait(CLOSING)


@contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    runner = asyncio.Runner()
    loop = runner.get_loop()
    thread = threading.Thread(target=loop.run_forever, name="aiorpc shell", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        with suppress(KeyboardInterrupt):  # a second Ctrl-C
            thread.join(STOPPING)
        if thread.is_alive():
            # A typed line blocks the loop. We cannot stop the line, nor close a running loop.
            print_note("ending without waiting for the running line")
            sys.stdout.flush()
            os._exit(ExitCode.INTERRUPTED)
        runner.close()


class Console(code.InteractiveConsole):
    """Python's prompt, with ``await``."""

    def __init__(self, bridge: Bridge, namespace: dict[str, Any]) -> None:
        super().__init__(namespace)
        self.namespace = namespace
        self._bridge = bridge
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    def runcode(self, code: types.CodeType) -> None:
        try:
            self.run(code)
        except (SystemExit, KeyboardInterrupt):
            raise  # interact() handles both
        except BaseException as error:  # noqa: BLE001 - a typed line may raise anything
            print_traceback(error)

    def run(self, code: types.CodeType) -> None:
        """Run *code* in the loop's thread. Raises the errors of *code*."""
        function = types.FunctionType(code, self.namespace)
        leaving = self._bridge.run(lambda: _evaluate(function))
        if leaving is not None:
            raise leaving

    def startup(self) -> None:
        """Set up completion with Tab, and run PYTHONSTARTUP, as Python's prompt does."""
        with suppress(ImportError):
            import readline
            import rlcompleter

            readline.set_completer(rlcompleter.Completer(self.namespace).complete)
            readline.parse_and_bind("tab: complete")
        path = os.environ.get("PYTHONSTARTUP")
        if not path:
            return
        try:
            source = Path(path).read_text(encoding="utf-8")
            self.runcode(compile(source, path, "exec", dont_inherit=True))
        except (OSError, SyntaxError, ValueError) as error:
            print_note(f"PYTHONSTARTUP={path}: {error}")


async def _evaluate(function: types.FunctionType) -> BaseException | None:
    try:
        value = function()
        if inspect.iscoroutine(value):
            await value
    except (SystemExit, KeyboardInterrupt) as leaving:
        return leaving  # a raise here would end the loop before the connections close
    return None


def _run_script(console: Console, source: str) -> int:
    try:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        # dont_inherit: the script does not get this module's `from __future__ import`.
        console.run(compile(source, "<stdin>", "exec", flags, dont_inherit=True))
    except Exception as error:  # noqa: BLE001 - the script may raise anything
        print_traceback(error)
        return ExitCode.FAILED
    return ExitCode.OK

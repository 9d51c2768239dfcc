"""
Reads a call from the command line: service and method, arguments, context data, timeout.

``aiorpc call`` and ``aiorpc bench`` use this module, which also connects and makes the call.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from ..calling.proxies import MethodProxy
from ..calling.standalone import ClusterRpcProxy
from ..config import Settings
from ..exceptions import AioRpcError, ConfigurationError, MethodNotFound, RemoteError
from .output import ExitCode, exit_code_of, print_error
from .parser import Parser, add_settings, add_timeout

__all__ = ["CONNECT_TIMEOUT", "Wanted", "add_call", "explain", "wanted_of"]

T = TypeVar("T")

#: Seconds to wait for the broker. A user at a terminal needs the error soon.
CONNECT_TIMEOUT = 5.0


class Wanted(msgspec.Struct, frozen=True):
    """The call to make. ``timeout`` is in seconds; ``None``: ``RPC_TIMEOUT`` of the settings."""

    service: str
    name: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    context_data: dict[str, Any] = {}
    timeout: float | None = None

    @asynccontextmanager
    async def connected(self, settings: Settings) -> AsyncGenerator[Callable[[], Awaitable[Any]]]:
        """Connect as :meth:`method` does, and yield the call."""
        async with self.method(settings) as method:
            yield lambda: method(*self.args, **self.kwargs)

    @asynccontextmanager
    async def method(self, settings: Settings) -> AsyncGenerator[MethodProxy]:
        """
        Connect within ``CONNECT_TIMEOUT``, or within a shorter ``timeout``; yield the method.

        Raises:
            ConnectionLost, ConfigurationError: the broker is down, or refuses the connection.
        """
        limit = settings.rpc_timeout if self.timeout is None else self.timeout
        connecting = CONNECT_TIMEOUT if self.timeout is None else min(self.timeout, CONNECT_TIMEOUT)
        cluster = ClusterRpcProxy(settings, timeout=connecting, context_data=self.context_data)
        async with cluster as services:
            yield services[self.service][self.name].with_options(timeout=limit)


def add_call(parser: Parser) -> None:
    """Add the arguments and options that :func:`wanted_of` and :func:`settings_of` read."""
    parser.add_argument("target", metavar="SERVICE.METHOD", help="The method to call.")
    args = "Positional arguments, a JSON array. (default: [])"
    kwargs = "Keyword arguments, a JSON object. (default: {})"
    parser.add_argument("args", metavar="ARGS", nargs="?", default="[]", help=args)
    parser.add_argument("kwargs", metavar="KWARGS", nargs="?", default="{}", help=kwargs)
    add_timeout(parser)
    context = "Context data that travels with the call; VALUE is JSON, or text. Repeatable."
    parser.option("--context KEY=VALUE", context, action="append", default=[])
    add_settings(parser)


def wanted_of(arguments: argparse.Namespace) -> Wanted:
    """Read the call from *arguments*. Raises ``ConfigurationError`` for invalid text."""
    service, dot, method = arguments.target.rpartition(".")
    if not (service and dot and method):
        raise ConfigurationError(
            f"{arguments.target!r} does not name a method: write SERVICE.METHOD, "
            "such as service_x.remote_method"
        )
    args, kwargs = arguments.args, arguments.kwargs
    if kwargs == "{}" and args.lstrip().startswith("{"):
        args, kwargs = "[]", args  # the user left out '[]' before the keyword arguments
    return Wanted(
        service,
        method,
        _json(args, list[Any], """ARGS must be a JSON array such as '["hello", 1]'"""),
        _json(kwargs, dict[str, Any], """KWARGS must be a JSON object such as '{"n": 1}'"""),
        dict(map(_context_item, arguments.context)),
        arguments.timeout,
    )


def _json(text: str, kind: type[T], expected: str) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeError):
        raise ConfigurationError(f"{expected}, in quotes for the shell; got {text}") from None


def _context_item(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigurationError(f"--context needs KEY=VALUE, such as language=en; got {text}")
    try:
        key.encode()
        return key, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return key, value
    except UnicodeEncodeError:
        raise ConfigurationError(f"--context {text!r} is not UTF-8") from None


def explain(wanted: Wanted, error: AioRpcError, *, debug: bool) -> ExitCode:
    """Print why a call failed, and return the exit code. With *debug*, raise *error*."""
    if debug:
        raise error
    called = f"{wanted.service}.{wanted.name}"
    if isinstance(error, RemoteError):
        text = f"{called} raised {error.exc_type}: {error.value}"
    elif isinstance(error, MethodNotFound):
        suggestion = str(error).removeprefix(wanted.name)
        text = f"{wanted.service} has no method {wanted.name} with @rpc{suggestion}"
    else:
        text = str(error) if str(error).startswith(called) else f"{called}: {error}"
    print_error(text)
    return exit_code_of(error)

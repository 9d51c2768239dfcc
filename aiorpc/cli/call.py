"""``aiorpc call``: one call from the command line, its result as JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import typer

from ..config import Settings
from ..exceptions import (
    AioRpcError,
    ConfigurationError,
    IncorrectSignature,
    MethodNotFound,
    RemoteError,
)
from ..standalone import ClusterRpcProxy
from .exit_codes import exit_code_of
from .options import Broker, ConfigFile, Debug, Define, require_server, settings_of
from .output import print_error, print_json

__all__ = ["CONNECT_TIMEOUT", "call"]

#: Seconds to wait for the broker: whoever types a command wants to know soon.
CONNECT_TIMEOUT = 5.0


def call(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE.METHOD",
            help="Whom to call.",
            show_default=False,
        ),
    ],
    args: Annotated[
        str, typer.Argument(metavar="ARGS", help="Positional arguments, a JSON array.")
    ] = "[]",
    kwargs: Annotated[
        str, typer.Argument(metavar="KWARGS", help="Keyword arguments, a JSON object.")
    ] = "{}",
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            "-t",
            metavar="SECONDS",
            min=0.001,
            show_default="RPC_TIMEOUT, or 30",
            help="Wait for the answer so long.",
        ),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(
            "--context",
            metavar="KEY=VALUE",
            show_default=False,
            help="Context data that travels with the call; VALUE is JSON, or text. Repeatable.",
        ),
    ] = None,
    config: ConfigFile = None,
    define: Define = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """
    Call a method, and print its result as JSON.

    In a pipe the result is one line. Whatever goes wrong is one line on stderr,
    and the exit code says what it was.
    """
    service, method = _target(target)
    positional, named = _arguments(args, kwargs)
    context_data = dict(map(_context_item, context or ()))
    settings = settings_of(config, define, broker)
    require_server(settings, "call")
    # The broker's absence is told by the error; what else goes on in there is nobody's business.
    logging.getLogger("aiorpc").setLevel(logging.CRITICAL)
    calling = call_once(
        settings, service, method, positional, named, timeout=timeout, context_data=context_data
    )
    try:
        result = asyncio.run(calling)
    except (RemoteError, MethodNotFound, IncorrectSignature) as error:
        if debug:
            raise
        print_error(_in_words(service, method, error))
        raise typer.Exit(exit_code_of(error)) from None
    print_json(result)


async def call_once(
    settings: Settings,
    service: str,
    method: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
    context_data: Mapping[str, Any] | None = None,
) -> Any:
    """Connect, call, and hang up. *timeout* in seconds; ``None`` is that of the settings."""
    connecting = CONNECT_TIMEOUT if timeout is None else min(timeout, CONNECT_TIMEOUT)
    limit = settings.rpc_timeout if timeout is None else timeout
    async with ClusterRpcProxy(settings, timeout=connecting, context_data=context_data) as cluster:
        return await cluster[service][method].with_options(timeout=limit)(*args, **(kwargs or {}))


def _target(text: str) -> tuple[str, str]:
    service, dot, method = text.rpartition(".")
    if not (service and dot and method):
        raise ConfigurationError(
            f"{text!r} names no method: write SERVICE.METHOD, such as service_x.remote_method"
        )
    return service, method


def _arguments(args: str, kwargs: str) -> tuple[list[Any], dict[str, Any]]:
    positional = _json(args)
    if isinstance(positional, dict) and kwargs == "{}":
        return [], positional  # only keyword arguments, and no '[]' before them
    if not isinstance(positional, list):
        raise ConfigurationError(
            f"""ARGS must be a JSON array, in quotes for the shell: '["hello", 1]'; got {args}"""
        )
    named = _json(kwargs)
    if not isinstance(named, dict):
        raise ConfigurationError(
            f"""KWARGS must be a JSON object, in quotes for the shell: '{{"n": 1}}'; got {kwargs}"""
        )
    return positional, named


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _context_item(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigurationError(f"--context needs KEY=VALUE, such as language=en; got {text}")
    try:
        return key, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return key, value


def _in_words(service: str, method: str, error: AioRpcError) -> str:
    if isinstance(error, RemoteError):
        return f"{service}.{method} raised {error.exc_type}: {error.value}"
    if isinstance(error, MethodNotFound):
        return f"{service} has no method {method} that is marked @rpc"
    called = f"{service}.{method}"
    return str(error) if str(error).startswith(called) else f"{called}: {error}"

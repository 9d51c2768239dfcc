"""``aiorpc call``: one call from the command line, its result as JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from ...calling.standalone import ClusterRpcProxy
from ...config import Settings
from ...exceptions import IncorrectSignature, MethodNotFound, RemoteError
from ..calling import (
    Args,
    Context,
    Kwargs,
    Target,
    Timeout,
    arguments_of,
    context_of,
    in_words,
    target_of,
)
from ..exit_codes import exit_code_of
from ..options import Broker, ConfigFile, Debug, Define
from ..output import print_error, print_json
from ..settings import require_server, settings_of

__all__ = ["CONNECT_TIMEOUT", "call"]

#: Seconds to wait for the broker: whoever types a command wants to know soon.
CONNECT_TIMEOUT = 5.0


def call(
    target: Target,
    args: Args = "[]",
    kwargs: Kwargs = "{}",
    timeout: Timeout = None,
    context: Context = None,
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
    service, method = target_of(target)
    positional, named = arguments_of(args, kwargs)
    context_data = context_of(context)
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
        print_error(in_words(service, method, error))
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

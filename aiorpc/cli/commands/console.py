"""
``aiorpc console``: serves a page that shows services, their figures and their parked messages.

Connects to the broker, and listens on an address until a signal.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from ...exceptions import ConfigurationError
from ..output import ExitCode, print_note
from ..parser import Parser, add_settings, settings_for_server

if TYPE_CHECKING:  # the extra may be missing
    from ...console import ConsoleServer

__all__ = ["configure", "execute"]

ARGUMENTS = ""

DESCRIPTION = """\
The page shows services and instances, methods with their schemas, rates,
durations, errors, queues, parked messages, and who calls whom. The console
looks at the services while a page is open.

It shows only. With --allow-changes, the page can also call methods and replay
parked messages. Each such request needs the token in the printed URL."""

EXAMPLES = """\
  $ aiorpc console --allow-changes
  $ aiorpc console --config config.yaml --bind 127.0.0.1:9000
  $ aiorpc console --management http://guest:guest@localhost:15672
"""


def configure(parser: Parser) -> None:
    bind = "Address of the page, [address:]port. (default: 127.0.0.1:8800)"
    parser.option("--bind ADDRESS", bind, default="127.0.0.1:8800")
    changes = "Let the page call methods and replay parked messages, with a token."
    parser.option("--allow-changes", changes)
    management = (
        "RabbitMQ's management API, which lists all queues: http://user:password@host:15672"
    )
    parser.option("--management URL", management)
    add_settings(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Serve the page until a signal, and return the exit status."""
    settings = settings_for_server(arguments, "console", level=logging.WARNING)
    try:
        from ...console import ConsoleServer
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"aiorpc console: {error}") from None
    console = ConsoleServer(
        settings,
        arguments.bind,
        allow_changes=arguments.allow_changes,
        management=arguments.management,
    )
    try:
        asyncio.run(_serve(console))
    except KeyboardInterrupt:
        return ExitCode.OK
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    return ExitCode.OK


async def _serve(console: ConsoleServer) -> None:
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError, ValueError, RuntimeError):  # Windows, or another thread
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with console.open() as url:
        if not console.is_local:
            print_note(
                "everybody who reaches this address sees what the console shows: bind to "
                "127.0.0.1, and use `ssh -L` from elsewhere"
            )
        # A browser does not send what follows the #.
        print(url if console.token is None else f"{url}/#token={console.token}", flush=True)
        await asyncio.Event().wait()

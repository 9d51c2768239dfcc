"""
Runs one worker process of ``aiorpc run --workers N``: ``python -m aiorpc.cli.worker NUMBER FD
WORDS``, with the descriptor of its socket to the parent and the words after ``aiorpc run``.

Sets up logging. Tells the parent why it ends, and the parent prints the error.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import socket
import sys
from functools import partial
from typing import NoReturn

from .. import sockets
from ..exceptions import AioRpcError
from ..hosting.processes.messages import Failure
from ..hosting.processes.parent import Parent
from .app import COLLECT_AFTER, parser_of
from .loading import UserCodeFailed, load_services
from .logging_setup import set_up_logging
from .output import ExitCode, exit_code_of, print_traceback
from .parser import settings_of
from .serving import Serving
from .worker_metrics import refresh

__all__ = ["main"]


def main() -> NoReturn:
    """Serve until a signal, or until the parent dies, and exit."""
    gc.set_threshold(COLLECT_AFTER)
    number, descriptor, *words = sys.argv[1:]
    parent = Parent(socket.socket(fileno=int(descriptor)))
    parent.watch()
    sockets.get_from(parent.listen)
    name = f"worker {number}"
    multiprocessing.current_process().name = name  # `processName` of log records
    gc.freeze()  # the objects of these modules stay, so no later collection visits them
    status = _run(parser_of("run").read(words), name, parent)
    sys.stdout.flush()
    raise SystemExit(status)


def _run(arguments: argparse.Namespace, name: str, parent: Parent) -> int:
    def report(error: AioRpcError | UserCodeFailed) -> int:
        return _report(error, parent, arguments)

    try:
        settings = settings_of(arguments)
        set_up_logging(settings, name)
        serving = Serving(
            settings,
            fail_fast=arguments.fail_fast,
            report=report,
            beside=partial(
                parent.informed,
                stops_within=settings.shutdown_timeout + settings.cleanup_timeout,
                beat=refresh,
            ),
        )
        return serving.run(load_services(arguments.modules))
    except (AioRpcError, UserCodeFailed) as error:
        return report(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _report(
    error: AioRpcError | UserCodeFailed, parent: Parent, arguments: argparse.Namespace
) -> int:
    """Tell *parent* about *error*, and return the exit status. Print only the traceback here."""
    if arguments.debug:
        print_traceback(error, whole=True)
    elif isinstance(error, UserCodeFailed) and error.__cause__ is not None:
        print_traceback(error.__cause__)
    status = exit_code_of(error) if isinstance(error, AioRpcError) else ExitCode.FAILED
    final = arguments.fail_fast or status == ExitCode.WRONG
    parent.fail(Failure(str(error), int(status), final))
    return status


if __name__ == "__main__":
    main()

"""The exit codes of ``aiorpc``, which scripts may rely on. Values only."""

from __future__ import annotations

import enum

from ..exceptions import (
    AioRpcError,
    BadRequest,
    ConfigurationError,
    ConnectionLost,
    RpcTimeout,
    ServiceUnavailable,
    UnknownService,
    UnserializableValueError,
)

__all__ = ["ExitCode", "exit_code_of"]


class ExitCode(enum.IntEnum):
    """How a command ended. ``--help`` and ``docs/cli.md`` have the same table."""

    OK = 0
    #: The remote method raised; a service failed, or could not finish its calls in time.
    FAILED = 1
    #: The command, the configuration, the credentials or the call are wrong: a retry does not
    #: help. (systemd: ``RestartPreventExitStatus=2``.)
    WRONG = 2
    #: No such service on this broker, or nobody consumes its queue.
    NO_SERVICE = 3
    #: No answer within the timeout.
    TIMEOUT = 4
    #: The broker cannot be reached, or the connection was lost.
    NO_CONNECTION = 5
    #: Ctrl-C, by the convention of shells.
    INTERRUPTED = 130


_CODES: list[tuple[type[AioRpcError], ExitCode]] = [
    (ConfigurationError, ExitCode.WRONG),
    (BadRequest, ExitCode.WRONG),
    (UnserializableValueError, ExitCode.WRONG),
    (UnknownService, ExitCode.NO_SERVICE),
    (ServiceUnavailable, ExitCode.NO_SERVICE),
    (RpcTimeout, ExitCode.TIMEOUT),
    (ConnectionLost, ExitCode.NO_CONNECTION),
]


def exit_code_of(error: AioRpcError) -> ExitCode:
    """Return the exit code for *error*."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)

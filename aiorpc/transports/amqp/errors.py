"""
aiormq's errors and log lines, as ours. May import aiormq.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import aiormq

from ...config import BrokerUrl
from ...exceptions import ConfigurationError

__all__ = ["Refused", "connection_refusal", "errors", "quietly", "reason", "refusal"]

_ours = contextvars.ContextVar("aiorpc_amqp_ours", default=False)


class Refused(Exception):
    """The broker closed a channel: *code* is AMQP's (403, 404, 405, 406...), or 0."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}" if code else text)
        self.code = code
        self.text = text


@contextmanager
def errors() -> Iterator[None]:
    """
    aiormq's errors in the block as ours: ``Refused``, else ``ConnectionError``. Whoever cancels the
    task in it is not lost on the way: what aiormq makes of that may be another error, or none.
    """
    task = asyncio.current_task()
    assert task is not None
    cancelled_before = task.cancelling()
    try:
        yield
    except BaseException as error:
        if task.cancelling() > cancelled_before:
            if isinstance(error, asyncio.CancelledError):
                raise
            raise asyncio.CancelledError from error
        ours = _as_ours(error)
        if ours is None:
            raise
        raise ours from error
    if task.cancelling() > cancelled_before:
        raise asyncio.CancelledError


def _as_ours(error: BaseException) -> Exception | None:
    if isinstance(error, aiormq.exceptions.ChannelClosed):
        return refusal(error)
    if isinstance(error, asyncio.CancelledError):
        # Nobody asked for it: aiormq throws it into those who wait when a connection dies.
        return ConnectionError("the connection was closed")
    # aiormq raises ChannelInvalidStateError, a RuntimeError, on what is closed already.
    # A bare Exception is what it gives those who wait when its reader met the end of the stream.
    if isinstance(error, aiormq.exceptions.AMQPError | RuntimeError) or type(error) is Exception:
        return ConnectionError(reason(error))
    return None


_CODES: dict[type[BaseException], int] = {
    aiormq.exceptions.ChannelAccessRefused: 403,
    aiormq.exceptions.ChannelNotFoundEntity: 404,
    aiormq.exceptions.ChannelLockedResource: 405,
    aiormq.exceptions.ChannelPreconditionFailed: 406,
}


def refusal(error: BaseException | None) -> Refused:
    """Why a channel was closed; with code 0 where it was not the broker who closed it."""
    if not isinstance(error, aiormq.exceptions.ChannelClosed):
        return Refused(0, reason(error))
    code = _CODES.get(type(error), 0)
    arguments = error.args
    if not code and len(arguments) > 1 and isinstance(arguments[0], int):
        code = arguments[0]
    text = str(arguments[-1]) if arguments and arguments[-1] else "the channel was closed"
    return Refused(code, text)


def reason(error: BaseException | None) -> str:
    """*error* in words for a log: aiormq's have their text in odd places."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiormq.exceptions.ConnectionClosed) and error.args:
        return str(error.args[-1])
    if isinstance(error, asyncio.CancelledError) or error is None:
        return "the connection was closed"
    if error.__cause__ is not None and isinstance(error, aiormq.exceptions.AMQPConnectionError):
        error = error.__cause__
    if isinstance(error, asyncio.IncompleteReadError):
        return "the broker closed the connection"
    return str(error) or type(error).__name__


def connection_refusal(
    error: BaseException, url: BrokerUrl, said: str
) -> ConfigurationError | None:
    """
    What no waiting would heal, in words; ``None`` for the rest. *said* is what the broker said when
    it closed the connection, if we heard it.
    """
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError):
        return ConfigurationError(
            f"{url} refuses user {url.user!r}: {reason(error)}. Set the right user and password "
            "in AMQP_URI (the user guest may only connect from the broker's own host)"
        )
    if isinstance(error, aiormq.exceptions.AuthenticationError):
        return ConfigurationError(
            f"{url} takes none of our login methods: it offers {error.args[0]!r}; "
            "set LOGIN_METHOD to PLAIN or EXTERNAL"
        )
    if _is_vhost_refusal(error, said):
        return ConfigurationError(
            f"{url} refuses vhost {url.vhost!r} to user {url.user!r}: "
            f"{said or 'it does not exist, or the user has no permissions there'}"
        )
    if type(error).__name__ == "SSLCertVerificationError":  # ssl is imported only where it is used
        return ConfigurationError(
            f"{url} shows a certificate that does not verify: {error}. Name its authority in "
            "AMQP_SSL: {ca_certs: ...}, or the name it is made out to in server_hostname"
        )
    return None


def _is_vhost_refusal(error: BaseException, said: str) -> bool:
    # RabbitMQ closes the connection with 530 in answer to connection.open; aiormq only complains
    # that this is not the answer it expected.
    if said:
        return said.startswith("NOT_ALLOWED") and "is down" not in said
    return isinstance(error, aiormq.exceptions.InvalidFrameError) and (
        "Connection.OpenOk" in str(error) and "Connection.Close" in str(error)
    )


# --- aiormq's own log


@contextmanager
def quietly() -> Iterator[None]:
    """
    Keep aiormq from logging what happens to connections made in the block: aiorpc says it itself,
    once and without a traceback. Other users of aiormq in the same process are heard as ever.
    """
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)


def _not_ours(record: logging.LogRecord) -> bool:
    return record.levelno <= logging.DEBUG or not _ours.get()


for _name in ("aiormq.connection", "aiormq.channel", "aio_pika.connection", "aio_pika.tools"):
    logging.getLogger(_name).addFilter(_not_ours)

"""
Translates aiormq's errors to ours, and silences its log. No I/O; may import aiormq.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import aiormq

from ...config import BrokerUrl
from ...exceptions import ConfigurationError, ConnectionLost

__all__ = [
    "Refused",
    "connection_refusal",
    "errors",
    "fail",
    "quietly",
    "reason",
    "refusal",
    "unanswered",
]

_ours = contextvars.ContextVar("aiorpc_amqp_ours", default=False)


#: RabbitMQ's words (3.10 to 4.3), in 404, for a queue that exists and cannot be used now.
_UNAVAILABLE = "down or inaccessible|stopped by supervisor|crashed|timeout|timed out|being demoted"
#: RabbitMQ's words (3.10 to 4.3) in 403 and 406. A reserved name, or another flag, never passes.
_MAY_PASS = r"(?s)access to .* refused for user|limit .*is reached"


class Refused(Exception):
    """The broker closed a channel: *code* is AMQP's (403, 404, 405, 406...), or 0."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}" if code else text)
        self.code = code
        self.text = text

    @property
    def is_consumer_timeout(self) -> bool:
        """Whether a message was not acked within the broker's ``consumer_timeout``."""
        return "delivery acknowledgement" in self.text  # the words of RabbitMQ 3.8 to 4.3

    @property
    def unavailable(self) -> bool:
        """Whether the refused queue exists, and cannot be used now: its node is down."""
        return self.code == 404 and re.search(_UNAVAILABLE, self.text) is not None

    @property
    def missing(self) -> bool:
        """Whether the queue or the exchange does not exist."""
        return self.code == 404 and not self.unavailable

    @property
    def may_pass(self) -> bool:
        """
        Whether the broker may accept the same declaration later: after an operator gave the user a
        permission (403), or declared what is missing (404), after another connection has ended
        (405), or when a limit is not reached any more (406).
        """
        return self.code in (404, 405) or re.search(_MAY_PASS, self.text) is not None


@contextmanager
def errors() -> Iterator[None]:
    """
    Raise aiormq's errors in the block as ``Refused`` or ``ConnectionError``. If the task is
    cancelled in the block, raise ``CancelledError``: aiormq may replace or suppress a
    ``CancelledError``.
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


def fail(future: asyncio.Future[None], error: Exception) -> None:
    """Set *error* on *future*; asyncio does not log *error* if nobody awaits *future*."""
    future.set_exception(error)
    future.exception()


def _as_ours(error: BaseException) -> Exception | None:
    if isinstance(error, aiormq.exceptions.ChannelClosed):
        return refusal(error)
    if isinstance(error, asyncio.CancelledError):
        # Our task is not cancelled: aiormq cancels its futures when a connection is lost.
        return ConnectionError("the connection was closed")
    # aiormq raises ChannelInvalidStateError, a RuntimeError, for a closed channel. At the end of
    # the stream, aiormq's reader raises a bare Exception in its futures.
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
    """Return why a channel was closed; the code is 0 if the broker did not close it."""
    if not isinstance(error, aiormq.exceptions.ChannelClosed):
        return Refused(0, reason(error))
    code = _CODES.get(type(error), 0)
    arguments = error.args
    if not code and len(arguments) > 1 and isinstance(arguments[0], int):
        code = arguments[0]
    text = str(arguments[-1]) if arguments and arguments[-1] else "the channel was closed"
    return Refused(code, text)


def reason(error: BaseException | None) -> str:
    """Return *error* in words; each aiormq error has its text in another attribute."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
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
    Return the error for a refusal that lasts until somebody acts, or ``None`` for other errors.

    Args:
        said: the broker's words when it closed the connection; empty if the broker sent none.
    """
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError):
        return ConfigurationError(
            f"{url} refuses user {url.user!r}: {reason(error).rstrip('.')}. Set the "
            "right user and password in AMQP_URI (the user guest may only connect from the "
            "broker's own host)"
        )
    if isinstance(error, aiormq.exceptions.AuthenticationError):
        return ConfigurationError(
            f"{url} accepts none of our login methods: the broker offers {error.args[0]!r}; "
            "set LOGIN_METHOD to PLAIN or EXTERNAL"
        )
    if _is_vhost_refusal(error, said):
        return ConfigurationError(
            f"{url} refuses vhost {url.vhost!r} to user {url.user!r}: "
            f"{said or 'the vhost does not exist, or the user has no permissions there'}",
            may_pass=True,  # an operator may make the vhost, or give the permission
        )
    if type(error).__name__ == "SSLCertVerificationError":  # ssl is imported only where it is used
        return ConfigurationError(
            f"{url} has a certificate that cannot be verified: {error}. Set its authority in "
            "AMQP_SSL: {ca_certs: ...}, or the host name in the certificate in server_hostname"
        )
    return None


#: RabbitMQ's words (3.10 to 4.3) for refusals that last until an operator or a user acts. Other
#: refusals may be temporary: a connection limit, a vhost that is down.
_FINAL_530 = r"(?s)NOT_ALLOWED - (vhost .* not found|access to vhost .* refused for user '[^']*')"


def unanswered(url: str, timeout: float | None, trouble: str) -> ConnectionLost:
    """Return the error of a first connection that took *timeout* seconds."""
    trouble = trouble.removeprefix(f"{url}: ")
    return ConnectionLost(
        f"no connection to {url} within {timeout:g} s: {trouble}: start the broker, or correct its "
        "URL"
    )


def _is_vhost_refusal(error: BaseException, said: str) -> bool:
    # RabbitMQ answers connection.open by closing the connection with 530. aiormq's error says only
    # that aiormq expected another answer.
    if said:
        return re.fullmatch(_FINAL_530, said) is not None
    return isinstance(error, aiormq.exceptions.InvalidFrameError) and (
        "Connection.OpenOk" in str(error) and "Connection.Close" in str(error)
    )


# --- aiormq's own log


@contextmanager
def quietly() -> Iterator[None]:
    """
    Silence aiormq's log for connections made in the block: aiorpc logs the same events once and
    without a traceback. aiormq still logs the other connections of this process.
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

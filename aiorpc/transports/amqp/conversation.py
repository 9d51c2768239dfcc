"""
A connection to one address of a broker, opened step by step, that only asks. ``aiorpc doctor`` uses
it to find the step that fails; services use :mod:`.link`.

Does I/O on one socket; may import pamqp. Each step has a bound.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self, TypeVar

import pamqp.frame
from pamqp import base, body, commands, header, heartbeat
from pamqp.exceptions import UnmarshalingException

from ...context import new_id
from .errors import Refused
from .methods import ExchangeDeclare, QueueDeclare

__all__ = ["CONNECTION_NAME", "Conversation", "NotAmqp", "QueueCounts", "Refused"]

F = TypeVar("F")

#: Shown in RabbitMQ's list of connections.
CONNECTION_NAME = "aiorpc doctor"
#: Seconds for one answer of the broker.
ANSWER = 5.0
#: Seconds to wait for the peer's refusal of our certificate.
_REFUSAL = 0.3
#: The channel for questions. A refusal closes it, and the next question opens it again.
_CHANNEL = 1
_FRAME_OVERHEAD = 8
#: Bytes of a frame if the broker sets no limit.
_FRAME = 131072


class NotAmqp(Exception):
    """
    The peer does not speak AMQP 0-9-1.

    Attributes:
        heard: the first bytes that it sent; empty if it closed the connection.
    """

    def __init__(self, heard: bytes) -> None:
        super().__init__(f"the peer sent {heard[:20]!r}")
        self.heard = heard


class QueueCounts:
    """What the broker tells of a queue: the numbers of its messages and consumers."""

    def __init__(self, messages: int, consumers: int) -> None:
        self.messages = messages
        self.consumers = consumers


class Conversation:
    """
    Attributes:
        properties: the broker's product, version, cluster name and capabilities, after ``begin``.
        mechanisms: the login methods that the broker offers.
        frame_max: bytes of a frame at most; 0 for no limit. After ``log_in``.
        channel_max: channels of a connection at most; 0 for no limit.
        heartbeat: seconds that the broker proposes; 0 for none.
        certificate: the broker's certificate as :meth:`ssl.SSLSocket.getpeercert` has it.
    """

    properties: Mapping[str, Any]
    mechanisms: tuple[str, ...]
    frame_max = channel_max = heartbeat = 0

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._opened = False
        self._channel_open = False
        self._lock = asyncio.Lock()
        found = writer.get_extra_info("peercert")
        self.certificate: Mapping[str, Any] = found or {}

    @classmethod
    async def connect(
        cls, host: str, port: int, context: ssl.SSLContext | None, name: str | None
    ) -> Self:
        """
        Connect to *host*, an IP address.

        Args:
            context: for TLS; None for plain TCP.
            name: the name in the broker's certificate.

        Raises:
            OSError: the address cannot be reached, or TLS failed: an ``ssl.SSLError``.
        """
        async with asyncio.timeout(ANSWER):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=name if context is not None else None
            )
        return cls(reader, writer)

    async def begin(self) -> None:
        """
        Exchange the first words of AMQP.

        Raises:
            NotAmqp: the peer speaks something else.
            OSError: the connection is lost.
        """
        if self._writer.get_extra_info("ssl_object") is not None:
            # With TLS 1.3, the refusal of our certificate follows the handshake. Then the peer
            # closes the connection, and the refusal is lost if the peer has unread bytes of ours.
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFUSAL):
                    raise NotAmqp(await self._reader.read(64))
        async with asyncio.timeout(ANSWER):
            self._writer.write(header.ProtocolHeader().marshal())
            try:
                first = await self._reader.readexactly(1)
                if first != b"\x01":
                    raise NotAmqp(first + await self._reader.read(64))
                start = await self._expect(commands.Connection.Start, first=first)
            except asyncio.IncompleteReadError as error:
                raise NotAmqp(error.partial) from None
        self.properties = start.server_properties
        self.mechanisms = tuple(str(start.mechanisms).split())

    async def log_in(self, user: str, password: str, mechanism: str) -> None:
        """
        Raises:
            Refused: the broker refuses the user.
            OSError: the connection is lost.
        """
        capabilities = {"authentication_failure_close": True, "connection.blocked": True}
        response = f"\0{user}\0{password}"
        if mechanism == "EXTERNAL":
            response = ""
        elif mechanism != "PLAIN":
            mechanism = "PLAIN"  # AMQPLAIN has the same user and password
        properties: dict[str, Any] = {"product": "aiorpc", "connection_name": CONNECTION_NAME}
        properties["capabilities"] = capabilities
        self._send(commands.Connection.StartOk(properties, mechanism, response), channel=0)
        async with asyncio.timeout(ANSWER):
            tune = await self._expect(commands.Connection.Tune)
        self.frame_max = tune.frame_max or 0
        self.channel_max = tune.channel_max or 0
        self.heartbeat = tune.heartbeat or 0
        tuned = commands.Connection.TuneOk(self.channel_max, self.frame_max, 0)
        self._send(tuned, channel=0)

    async def open(self, vhost: str) -> None:
        """
        Raises:
            Refused: the broker refuses the vhost.
            OSError: the connection is lost.
        """
        self._send(commands.Connection.Open(vhost), channel=0)
        async with asyncio.timeout(ANSWER):
            await self._expect(commands.Connection.OpenOk)
        self._opened = True

    async def queue(self, name: str) -> QueueCounts:
        """
        Ask about the queue *name*. This renews the time after which an unused queue expires.

        Raises:
            Refused: the queue does not exist (404), or the broker does not describe it.
            OSError: the connection is lost.
        """
        found = await self._ask(QueueDeclare(queue=name, passive=True), commands.Queue.DeclareOk)
        return QueueCounts(found.message_count or 0, found.consumer_count or 0)

    async def exchange(self, name: str) -> None:
        """
        Raises:
            Refused: the exchange does not exist (404), or the broker does not describe it.
            OSError: the connection is lost.
        """
        question = ExchangeDeclare(exchange=name, passive=True)
        await self._ask(question, commands.Exchange.DeclareOk)

    async def offer(self, size: int) -> None:
        """
        Send a message of *size* bytes that no queue takes, so that the broker drops it.

        Raises:
            Refused: the broker refuses the message.
            OSError: the connection is lost.
        """
        await self._ask(commands.Confirm.Select(), commands.Confirm.SelectOk)
        async with self._lock:
            nowhere = commands.Basic.Publish(exchange="", routing_key=f"aiorpc-doctor-{new_id()}")
            self._send(nowhere)
            properties = commands.Basic.Properties(delivery_mode=1)
            self._send(header.ContentHeader(0, size, properties))
            room = (self.frame_max or _FRAME) - _FRAME_OVERHEAD
            for start in range(0, size, room):
                self._send(body.ContentBody(bytes(min(room, size - start))))
                await self._writer.drain()
            await self._expect(commands.Basic.Ack)

    async def _ask(self, question: base.Frame, answer: type[F]) -> F:
        # Shielded by the lock: a cancelled question leaves its answer unread, so it ends the
        # connection.
        async with self._lock:
            try:
                async with asyncio.timeout(ANSWER):
                    if not self._channel_open:
                        self._send(commands.Channel.Open())
                        await self._expect(commands.Channel.OpenOk)
                        self._channel_open = True
                    self._send(question)
                    return await self._expect(answer)
            except (asyncio.CancelledError, TimeoutError):
                self._writer.transport.abort()
                raise

    def _send(self, frame: Any, channel: int = _CHANNEL) -> None:
        self._writer.write(pamqp.frame.marshal(frame, channel))

    async def _expect(self, wanted: type[F], first: bytes = b"") -> F:
        """Return the next method of the type *wanted*. Raise if the broker refuses."""
        while True:
            try:
                frame = await self._read(first)
            except asyncio.IncompleteReadError:
                raise ConnectionResetError("the broker closed the connection") from None
            first = b""
            match frame:
                case commands.Connection.Close() | commands.Channel.Close():
                    on_connection = isinstance(frame, commands.Connection.Close)
                    done = (
                        commands.Connection.CloseOk if on_connection else commands.Channel.CloseOk
                    )
                    self._send(done(), 0 if on_connection else _CHANNEL)
                    self._channel_open = False
                    raise Refused(frame.reply_code or 0, str(frame.reply_text))
                case heartbeat.Heartbeat():
                    continue
                case _ if isinstance(frame, wanted):
                    return frame

    async def _read(self, first: bytes) -> Any:
        start = first + await self._reader.readexactly(7 - len(first))
        rest = await self._reader.readexactly(int.from_bytes(start[3:7], "big") + 1)
        try:
            _, _, frame = pamqp.frame.unmarshal(start + rest)
        except UnmarshalingException:
            raise NotAmqp(start + rest) from None
        return frame

    async def aclose(self) -> None:
        """Close the connection, and wait for it at most two seconds."""
        try:
            if self._opened:  # the broker expects no close during the login
                with suppress(OSError, Refused, NotAmqp):
                    self._send(commands.Connection.Close(200, "done", 0, 0), channel=0)
                    async with asyncio.timeout(1):
                        await self._expect(commands.Connection.CloseOk)
        finally:
            self._writer.transport.abort()
            with suppress(OSError):
                async with asyncio.timeout(1):
                    await self._writer.wait_closed()

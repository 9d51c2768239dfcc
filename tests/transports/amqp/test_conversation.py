"""A conversation with one address: its steps, and the broker's refusals."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aiorpc.config import parse_broker_urls, resolve
from aiorpc.transports import open_transport
from aiorpc.transports.amqp.conversation import Conversation, NotAmqp, Refused
from aiorpc.wire.message import Queue
from tests.support.amqp import BLOCKED
from tests.support.amqp_proxy import proxied


@asynccontextmanager
async def opened(uri: str) -> AsyncIterator[Conversation]:
    (url,) = parse_broker_urls(uri)
    ip = "127.0.0.1" if url.host == "localhost" else url.host
    conversation = await Conversation.connect(ip, url.port, None, None)
    try:
        await conversation.begin()
        await conversation.log_in(url.user, url.password, "PLAIN")
        await conversation.open(url.vhost)
        yield conversation
    finally:
        await conversation.aclose()


async def test_each_step_tells_what_the_broker_said(rabbitmq_uri: str) -> None:
    async with opened(rabbitmq_uri) as conversation:
        assert conversation.properties["product"] == "RabbitMQ"
        assert "PLAIN" in conversation.mechanisms
        assert conversation.frame_max >= 8192
        assert conversation.channel_max > 0


async def test_a_refusal_does_not_end_the_conversation(rabbitmq_uri: str) -> None:
    name = f"conversation-{uuid.uuid4().hex}"
    async with opened(rabbitmq_uri) as conversation:
        with pytest.raises(Refused) as refused:
            await conversation.queue(name)
        assert refused.value.code == 404
        with pytest.raises(Refused):
            await conversation.exchange(name)
        await conversation.exchange("amq.topic")
        async with open_transport(resolve(rabbitmq_uri), name="tests") as transport:
            await transport.declare(queues=[Queue(name)])
            answer = await conversation.queue(name)
            await transport.delete(name)
        assert (answer.messages, answer.consumers) == (0, 0)


async def test_questions_at_the_same_time_get_their_own_answers(rabbitmq_uri: str) -> None:
    async with opened(rabbitmq_uri) as conversation:
        names = ["amq.topic", "no.such.exchange", "amq.direct", "nor.this", "amq.fanout"]
        asked = (conversation.exchange(each) for each in names)
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [each is None for each in answers] == [each.startswith("amq.") for each in names]


async def test_an_offered_message_reaches_no_queue(rabbitmq_uri: str) -> None:
    async with opened(rabbitmq_uri) as conversation:
        await conversation.offer(300_000)  # in several frames
        await conversation.exchange("amq.topic")


async def test_other_frames_of_the_broker_are_skipped(rabbitmq_uri: str) -> None:
    async with proxied(rabbitmq_uri) as proxy, opened(proxy.url) as conversation:
        proxy.inject(BLOCKED)
        await conversation.exchange("amq.topic")


@pytest.mark.parametrize(
    "words", [b"", b"SSH-2.0-OpenSSH\r\n", b"AMQP\x00\x00\x08\x00", b"\x15\x03\x01\x00\x02\x02\x0a"]
)
async def test_a_peer_with_other_words_is_not_amqp(words: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(words)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        conversation = await Conversation.connect("127.0.0.1", port, None, None)
        with pytest.raises(NotAmqp) as error:
            await conversation.begin()
        await conversation.aclose()
    assert error.value.heard == words

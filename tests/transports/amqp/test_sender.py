"""Sending over AMQP: from the outbox to the channel, and past it. On a channel that is none."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from aiorpc.transports.amqp.sender import Sender
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message


def message(number: int) -> Outgoing:
    return Outgoing(exchange="", routing_key="q", message=Message(body=b"%d" % number))


class Bench:
    """A sender, with a channel on which everything leaves at once."""

    def __init__(self) -> None:
        self.left: list[int] = []
        self.link = SimpleNamespace(blocked_reason=None, url=SimpleNamespace(redacted=lambda: "u"))
        channel: Any = SimpleNamespace(
            open=True,
            link=self.link,
            lane=SimpleNamespace(congested=False),
            publish=lambda outgoing: self.left.append(int(outgoing.message.body)),
        )
        self.sender = Sender("u", None, returned=lambda *_: None, on_crowded=lambda: None)
        self.sender.channel = channel

    async def all_left(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.left) < count:
                await asyncio.sleep(0)


async def test_what_waited_leaves_in_order_and_then_all_leaves_at_once() -> None:
    bench = Bench()
    for number in range(1000):
        bench.sender.send(message(number))
    bench.sender.resume()
    await bench.all_left(1000)
    bench.sender.send(message(1000))
    await bench.all_left(1001)
    assert bench.left == list(range(1001))


async def test_a_reply_taken_back_in_the_turn_in_which_the_outbox_emptied_leaves() -> None:
    bench = Bench()
    for number in range(300):
        bench.sender.send(message(number))
    bench.sender.resume()
    await bench.all_left(300)
    reply = message(300)
    reply.again = lambda same: same
    bench.sender.take_back([(1, reply)], None)
    await bench.all_left(301)
    bench.sender.send(message(301))
    await bench.all_left(302)
    assert bench.left == list(range(302))


async def test_a_broker_that_blocks_and_unblocks_in_two_turns_gets_the_rest() -> None:
    bench = Bench()
    for number in range(1000):
        bench.sender.send(message(number))
    bench.sender.resume()
    await asyncio.sleep(0)
    bench.link.blocked_reason = "alarm"
    bench.sender.pause("blocked")
    await asyncio.sleep(0)
    bench.link.blocked_reason = None
    bench.sender.resume()
    await bench.all_left(1000)
    assert bench.left == list(range(1000))

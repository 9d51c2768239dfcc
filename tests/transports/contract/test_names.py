"""Names of queues and exchanges, and routing keys; over every transport."""

from __future__ import annotations

import pytest

from aiorpc.exceptions import ConfigurationError
from aiorpc.wire.message import Exchange, Queue
from tests.support.transports import Bench, Inbox, look, to

#: Parts of names that pamqp (4.0) refuses, and RabbitMQ takes.
ODD = ["*", "#", "'\"", "%41", "{b}", "é中😀", "\\", "\0", "?&=;", "x" * 130, "é" * 100]


@pytest.mark.parametrize("odd", ODD, ids=ascii)
async def test_any_name_that_amqp_can_carry_works(bench: Bench, odd: str) -> None:
    transport = await bench.connect()
    exchange = Exchange(f"{bench.name()}{odd}", auto_delete=True)
    queue, inbox = Queue(f"{bench.name()}{odd}", exchange, odd), Inbox()
    bench.queues.append(queue.name)
    assert not (await look(transport, queue)).exists
    await transport.declare([exchange], [queue])
    async with await transport.subscribe(queue, inbox):
        await transport.publish(to(queue, b"through its binding", mandatory=True))
        await transport.publish(to(Queue(queue.name), b"by its name", mandatory=True))
        assert await inbox.bodies(2) == [b"through its binding", b"by its name"]
        assert (await look(transport, queue)).consumers == 1
    await transport.delete(queue.name)
    assert not (await look(transport, queue)).exists


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 256, "has 256 bytes, and AMQP allows 255"),
        ("é" * 128, "has 256 bytes"),
        ("a\ud800", "has a lone surrogate"),
        ("a\nb", "line break"),
    ],
    ids=ascii,
)
async def test_a_name_that_amqp_cannot_carry_is_an_error_and_no_such_queue_exists(
    bench: Bench, name: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Queue(name)
    with pytest.raises(ConfigurationError, match=reason):
        Queue("queue", Exchange("exchange"), name)
    with pytest.raises(ConfigurationError, match=reason):
        Exchange(name)
    state = await (await bench.connect()).inspect(name)
    assert state is not None
    assert not state.exists

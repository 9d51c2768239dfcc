"""
How long `aiorpc parked` takes for many parked messages, and how much memory.

    python benchmarks/parked.py                                   10,000 messages of 1 KB
    python benchmarks/parked.py --messages 1000 --bytes 1000000 --broker amqp://guest:guest@localhost/

Parks messages on a classic and on a quorum queue, with the headers of an event that failed. Then it
lists them, shows the last one, replays one group of ten, and replays all others. Each command is a
process of its own. Seconds are from its start to its end; CPU and memory (its largest resident
size) are those of the command, not of RabbitMQ. At the end it counts: each message has to be in the
queue once.

Needs Linux and RabbitMQ.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime

from contest import Broker, describe_machine

from aiorpc.config import resolve
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing, Transport
from aiorpc.wire.message import Message, Queue
from aiorpc.wire.parked import Parking, parked

STACK = "Traceback (most recent call last):\n" + "  File shop.py, line 1, in send\n" * 60
KINDS = {"classic": {}, "quorum": {"x-queue-type": "quorum", "x-delivery-limit": -1}}


async def park(transport: Transport, source: str, messages: int, size: int) -> None:
    """Park *messages*, in groups of a tenth by their errors, 500 on their way at a time."""
    slots = asyncio.Semaphore(500)

    def settled(error: Exception | None) -> None:
        slots.release()
        assert error is None, error

    for number in range(messages):
        await slots.acquire()
        why = Parking(
            queue=source,
            exchange="notices.events",
            routing_key="posted",
            method="mailer.send",
            reason=f"Error{number % 10}: message {number} is not sent",
            stack=STACK,
            at=datetime.now(UTC),
        )
        body = b'{"number": %d, "text": "%s"}' % (number, b"x" * size)
        headers = {"nameko.call_id_stack": [f"shop.sell.{number:032x}"]}
        message = parked(Message(body=body, headers=headers), why)
        transport.send(
            Outgoing(exchange="", routing_key=f"{source}.parked", message=message, settled=settled)
        )
    for _ in range(500):
        await slots.acquire()


def run(*words: str) -> tuple[float, float, float]:
    """Run `aiorpc parked *words*`; return seconds, CPU seconds, and MB of its largest size."""
    command = [sys.executable, "-m", "aiorpc", "parked", *words]
    began = time.perf_counter()
    process = os.posix_spawn(command[0], command, os.environ, file_actions=_QUIET)
    _, status, usage = os.wait4(process, 0)
    assert status == 0, f"{' '.join(command)} failed"
    seconds = time.perf_counter() - began
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


_QUIET = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]


def measured(url: str, kind: str, messages: int, size: int) -> Iterator[str]:
    """Yield a row for each command."""
    source = f"bench-parked-{secrets.token_hex(4)}"
    queues = [Queue(source, arguments=KINDS[kind])]
    queues.append(Queue(f"{source}.parked", arguments=KINDS[kind]))

    async def begin() -> None:
        async with open_transport(resolve(url)) as transport:
            await transport.declare(queues=queues)
            await park(transport, source, messages, size)

    async def counts(*, delete: bool = False) -> list[int]:
        """Return the messages of both queues, when RabbitMQ has taken back what was only read."""
        async with aclosing(open_transport(resolve(url))) as transport:
            await transport.start()
            for _ in range(100):
                states = [await transport.inspect(queue.name, 5) for queue in queues]
                found = [-1 if state is None else state.messages for state in states]
                if sum(found) == messages:
                    break
                await asyncio.sleep(0.1)
            for queue in queues if delete else ():
                await transport.delete(queue.name)
        return found

    asyncio.run(begin())
    for what, words in {
        "ls: read and group all": ("ls", source, "--yes"),
        "show the last": ("show", source, str(messages), "--yes"),
        "replay --error Error3 (a tenth)": ("replay", source, "--error", "Error3", "--yes"),
        "replay --all (the rest)": ("replay", source, "--all", "--yes"),
    }.items():
        seconds, cpu, memory = run(*words, "--broker", url)
        asyncio.run(counts())
        yield f"| {kind} | {what} | {seconds:.1f} | {cpu:.1f} | {memory:.0f} |"
    left = asyncio.run(counts(delete=True))
    assert left == [messages, 0], f"{left} messages are in the queue and in its parked queue"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=1000)
    parser.add_argument("--broker")
    options = parser.parse_args()
    broker = Broker.find(options.broker)
    print(f"{describe_machine()}\n{options.messages:,} messages of {options.bytes:,} bytes\n")
    print("| queue | command | seconds | CPU seconds | MB |\n| --- | --- | --- | --- | --- |")
    for kind in KINDS:
        for row in measured(broker.url, kind, options.messages, options.bytes):
            print(row, flush=True)


if __name__ == "__main__":
    main()

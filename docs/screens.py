"""
Makes the screens of ``top.md``: runs ``aiorpc top`` in terminals of two sizes, on a real
RabbitMQ with services under load::

    python docs/screens.py amqp://guest:guest@localhost/             write them
    python docs/screens.py amqp://guest:guest@localhost/ --print     print them

A screen is the ``text`` block after the comment ``<!-- screen: 80x24 -->``, or after
``<!-- screen: stacks -->``. The page shows what the command wrote last, without colours.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("top.md")
BLOCK = re.compile(r"(?ms)(?<=<!-- screen: )(\S+)( -->\n\n?```text\n).*?(?=^```$)")
COMMAND = str(Path(sys.executable).with_name("aiorpc"))
#: Seconds that a part of the run may take.
PATIENCE = 30.0
#: Refreshes before the one that the page shows.
EARLIER = 3

SHOP = '''
import asyncio
import random

from aiorpc import EventDispatcher, RpcProxy, event_handler, rpc, timer


class Stock:
    """Knows how many copies of each title there are."""

    name = "stock"

    @rpc
    async def copies(self, title: str) -> int:
        await asyncio.sleep(random.expovariate(250))
        return 3

    @event_handler("shop", "sold")
    async def count(self, title: str) -> None:
        await asyncio.sleep(0.02)


class Shop:
    """Sells books."""

    name = "shop"
    version = "1.4.0"
    stock = RpcProxy("stock")
    dispatch = EventDispatcher()

    @rpc
    async def quote(self, title: str) -> str:
        await asyncio.sleep(random.expovariate(500))
        return "9.90"

    @rpc(sensitive_arguments="card")
    async def buy(self, title: str, card: str) -> int:
        left = await self.stock.copies(title)
        await self.dispatch("sold", title)
        if random.random() < 0.02:
            raise ValueError("the card was refused")
        return left - 1

    @rpc(max_concurrency=2)
    async def report(self) -> None:
        await asyncio.sleep(30)

    @timer(interval=1)
    async def tidy(self) -> None:
        await asyncio.sleep(0.1)
'''

LOAD = """
import asyncio
import sys

from aiorpc import ClusterRpcProxy, RemoteError


async def main(url: str) -> None:
    async with ClusterRpcProxy(url) as cluster:
        shop = cluster.shop

        async def buyer() -> None:
            while True:
                await shop.quote("Emma")
                try:
                    await shop.buy("Emma", card="4111 1111 1111 1111")
                except RemoteError:
                    pass
                await asyncio.sleep(0.1)

        async def reader() -> None:
            while True:
                await shop.report.with_options(timeout=60)()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(buyer())
            for _ in range(5):
                tasks.create_task(reader())


asyncio.run(main(sys.argv[1]))
"""


@contextlib.contextmanager
def services_under_load(url: str) -> Iterator[None]:
    """Run two processes of the services above, and callers, until the block ends."""
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as running:
        Path(home, "shop.py").write_text(SHOP, encoding="utf-8")
        Path(home, "load.py").write_text(LOAD, encoding="utf-8")
        run = [COMMAND, "run", "shop", "--broker", url, "--define", "DISCOVERY_STACKS=true"]
        for _ in range(2):
            service = running.enter_context(started(run, home))
            assert service.stderr is not None
            ready = 0
            for line in service.stderr:  # until both services are ready
                ready += " ready: " in line
                if ready == 2:
                    break
        running.enter_context(started([sys.executable, "load.py", url], home))
        yield


@contextlib.contextmanager
def started(command: list[str], home: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def terminal(url: str, width: int, height: int) -> str:
    """Return what a terminal of this size shows of ``aiorpc top``."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    words = [COMMAND, "top", "shop", "stock", "--interval", "1", "--broker", url]
    environment = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # the end of the process
            while chunk := os.read(ours, 65536):
                written += chunk
                if written.count(b"METHOD") > EARLIER + 1:
                    process.send_signal(signal.SIGINT)
        os.close(ours)
    *_, last, _ = written.decode().split("\x1b[H")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last).replace("\r", "")


def stacks(url: str) -> str:
    """Return what ``aiorpc top --stacks`` prints of one process, with one call of each method."""
    words = [COMMAND, "top", "--stacks", "shop", "--broker", url]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True)
    process = re.split(r"^(?=shop in )", done.stdout, flags=re.MULTILINE)[1]
    head, *calls = re.split(r"^(?=  \w)", process, flags=re.MULTILINE)
    first = {
        re.sub(r"\.[\w-]+ (running|waiting).*", r" \1", call, flags=re.DOTALL): call
        for call in reversed(calls)
    }
    return f"$ aiorpc top --stacks shop\n{head}{''.join(reversed(first.values()))}"


def screens(url: str) -> dict[str, str]:
    """Run everything, and return the screens by their names."""
    with services_under_load(url):
        time.sleep(3)  # the load has to run for a while
        made = {
            "80x24": terminal(url, 80, 24),
            "120x40": terminal(url, 120, 40),
            "stacks": stacks(url),
        }
    return {name: neutral(text, url) for name, text in made.items()}


def neutral(text: str, url: str) -> str:
    """Replace this machine's name, its paths and its broker."""
    broker = url.rpartition("@")[2].rstrip("/")
    text = text.replace(broker, "localhost:5672").replace(f"{socket.gethostname()}:", "ada:")
    text = re.sub(r"/\S*/(?=shop\.py)", "/srv/shop/", text)
    text = re.sub(r"/\S*/(?=(site-packages/)?aiorpc/|asyncio/)", "/usr/lib/", text)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines()).rstrip("\n") + "\n"


def main() -> int:
    url, *options = sys.argv[1:]
    made = screens(url)
    if options == ["--print"]:
        for name, text in made.items():
            print(f"{name}\n{text}")
        return 0
    page = PAGE.read_text(encoding="utf-8")
    page = BLOCK.sub(lambda found: f"{found[1]}{found[2]}{made[found[1]]}", page)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

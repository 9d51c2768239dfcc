"""Letters to members: an event handler that is retried, and a nightly job of one instance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta

from aiorpc import (
    DependencyProvider,
    Host,
    Retry,
    RpcProxy,
    WorkerContext,
    cron,
    event_handler,
    rpc,
)


@dataclass
class Lent:
    """The event of the library: a member has borrowed a book."""

    book_id: int
    member_id: int
    due: date


class Post(DependencyProvider["Post"]):
    """The post office. It refuses the first letter, as post offices do."""

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        self.letters: asyncio.Queue[str] = asyncio.Queue()
        self.open = False
        yield

    def value(self, worker_ctx: WorkerContext) -> Post:
        return self

    def send(self, letter: str) -> None:
        if not self.open:
            self.open = True
            raise ConnectionRefusedError("the post office is closed")
        self.letters.put_nowait(letter)


class Letters:
    name = "letters"

    library = RpcProxy("library")
    members = RpcProxy("members")
    post = Post()

    @event_handler("library", "lent", retry=Retry(delays=(0.2, 10, 600)))
    async def confirm(self, lent: Lent) -> None:
        member = await self.members.get(lent.member_id)
        self.post.send(f"Dear {member['name']}, your book is due on {lent.due}.")

    @cron("0 3 * * *", tz="Europe/Berlin", singleton=True)
    async def remind(self) -> None:
        """Write to everybody whose book is due this week."""
        async for loan in self.library.due_by.stream(date.today() + timedelta(weeks=1)):
            member = await self.members.get(loan["member_id"])
            self.post.send(f"Dear {member['name']}, please return book {loan['book_id']}.")

    @rpc
    async def sent(self) -> AsyncGenerator[str]:
        """Yield each letter when it is posted, without an end."""
        while True:
            yield await self.post.letters.get()

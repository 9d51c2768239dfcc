"""Books and loans: one service, two databases, calls, events and a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import date, timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from aiorpc import BadArguments, EventDispatcher, RpcProxy, deserialize_to_instance, rpc
from aiorpc.sqlalchemy import DatabaseSession, accepts, returns, transaction_retry
from services.library.models import Author, Book, Catalogue, Lending, Loan
from services.library.schemas import AuthorSchema, BookSchema


@deserialize_to_instance
class NotAvailable(Exception):
    """The book is lent, or the book or member does not exist."""


class Library:
    name = "library"
    catalogue = DatabaseSession(Catalogue)
    lending = DatabaseSession(Lending, commit=True)
    members = RpcProxy("members")
    dispatch = EventDispatcher()

    @rpc(expected_exceptions=BadArguments)
    @accepts(author=AuthorSchema)
    @returns(AuthorSchema)
    async def add_author(self, author: Author) -> Author:
        self.catalogue.add(author)
        await self.catalogue.commit()
        return author

    @rpc
    @returns(BookSchema, many=True)
    async def find_books(self, title: str) -> Sequence[Book]:
        """Find books by title. ``@returns`` loads their authors."""
        query = select(Book).where(Book.title.contains(title)).order_by(Book.id)
        return (await self.catalogue.scalars(query)).all()

    @rpc(expected_exceptions=NotAvailable)
    @transaction_retry(total=3, backoff_factor=0.05)
    @returns(Loan)
    async def lend(self, book_id: int, member_id: int) -> Loan:
        if await self.catalogue.get(Book, book_id) is None:
            raise NotAvailable(f"there is no book {book_id}")
        if await self.members.get(member_id) is None:
            raise NotAvailable(f"there is no member {member_id}")
        due = date.today() + timedelta(weeks=4)
        self.lending.add(loan := Loan(book_id=book_id, member_id=member_id, due=due))
        try:
            await self.lending.flush()
        except IntegrityError:
            raise NotAvailable(f"book {book_id} is lent already") from None
        await self.dispatch("lent", {"book_id": book_id, "member_id": member_id, "due": due})
        return loan

    @rpc
    async def give_back(self, book_id: int) -> bool:
        loan = await self.lending.get(Loan, book_id)
        if loan is not None:
            await self.lending.delete(loan)
        return loan is not None

    @rpc
    async def export(self) -> AsyncGenerator[dict[str, str]]:
        """Yield all books: the caller reads the first while the last are still in the database."""
        query = select(Book.title, Author.name).join(Author).order_by(Book.id)
        async for title, author in await self.catalogue.stream(query):
            yield {"title": title, "author": author}

    @rpc
    @returns(Loan)
    async def due_by(self, day: date) -> AsyncGenerator[Loan]:
        async for loan in await self.lending.stream_scalars(select(Loan).where(Loan.due <= day)):
            yield loan

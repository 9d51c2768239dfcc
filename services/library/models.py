"""Three databases, so three declarative bases; their names are half of the keys in ``DB_URIS``."""

from __future__ import annotations

import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Catalogue(DeclarativeBase):
    """Tables of books and authors."""


class Author(Catalogue):
    __tablename__ = "author"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    books: Mapped[list[Book]] = relationship(back_populates="author", order_by="Book.id")


class Book(Catalogue):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
    author: Mapped[Author] = relationship(back_populates="books")


class Lending(DeclarativeBase):
    """Tables of current loans."""


class Loan(Lending):
    __tablename__ = "loan"

    #: The primary key: one member at a time has a book.
    book_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    member_id: Mapped[int]
    due: Mapped[datetime.date]


class Membership(DeclarativeBase):
    """Tables of members."""


class Member(Membership):
    __tablename__ = "member"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)

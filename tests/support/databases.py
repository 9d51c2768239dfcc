"""Mapped classes, and services with databases that run on ``memory://``. Awaits the databases."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, declarative_base, mapped_column, relationship

from aiorpc import ClusterRpcProxy, Middleware, ServiceContainer
from aiorpc.calling.proxies import ClusterProxy
from aiorpc.config import Settings, from_mapping
from aiorpc.extensions import providers_of
from aiorpc.sqlalchemy import configured, create_tables, open_engine
from tests.support.waiting import eventually

#: In the names of tables: other test runs may use the same server.
RUN = f"aiorpc_{os.getpid()}"

#: A base with the name given here.
FirstBase: Any = declarative_base(name="firstbase")


class Loan(FirstBase):
    __tablename__ = f"loan_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(100))


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = f"author_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    born: Mapped[int | None]
    books: Mapped[list[Book]] = relationship(back_populates="author", order_by="Book.id")


class Book(Base):
    __tablename__ = f"book_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(100))
    author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
    author: Mapped[Author] = relationship(back_populates="books")


def settings_for(service: type, urls: Mapping[str, str] | str, **more: Any) -> Settings:
    """With a broker of its own. *urls* are by the names of the bases, or one for all."""
    name: str = service.name
    databases: dict[str, Any]
    if isinstance(urls, str):
        databases = {"DB_URI": urls}
    else:
        databases = {"DB_URIS": {f"{name}:{base}": url for base, url in urls.items()}}
    return from_mapping({"AMQP_URI": f"memory://{uuid.uuid4().hex}", **databases, **more})


@asynccontextmanager
async def running(
    service: type,
    urls: Mapping[str, str] | str,
    *,
    middleware: Sequence[Middleware] = (),
    **more: Any,
) -> AsyncIterator[tuple[Any, ServiceContainer]]:
    """Run *service* with empty tables; give its proxy and its container."""
    settings = settings_for(service, urls, **more)
    if urls != "sqlite://":  # where every container has a database of its own
        await create_tables(settings, service, drop=True)
    cluster: ClusterProxy
    try:
        async with (
            ServiceContainer(service, settings, middleware=middleware) as it,
            ClusterRpcProxy(settings) as cluster,
        ):
            yield cluster[it.service_name], it
    finally:
        await drop_tables(settings, service)


@asynccontextmanager
async def opened_session(base: Any, url: str) -> AsyncIterator[AsyncSession]:
    """A plain session on the database at *url*, with the empty tables of *base*."""
    async with open_engine(configured({"DB_URI": url}, "tests", base)) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(base.metadata.drop_all)
            await connection.run_sync(base.metadata.create_all)
        async with AsyncSession(engine, expire_on_commit=False) as session:
            yield session
        async with engine.begin() as connection:
            await connection.run_sync(base.metadata.drop_all)


async def drop_tables(settings: Settings, service: type) -> None:
    name: str = service.name
    for provider in providers_of(service):
        base = provider.declarative_base
        async with (
            open_engine(configured(settings, name, base)) as engine,
            engine.begin() as connection,
        ):
            await connection.run_sync(base.metadata.drop_all)


def engine_of(container: ServiceContainer, index: int = 0) -> AsyncEngine:
    engine: AsyncEngine = container.providers[index].engine
    return engine


async def all_returned(container: ServiceContainer, within: float = 10) -> None:
    """Wait until no call holds a connection: a call that timed out may still close its session."""
    pools = [engine_of(container, index).pool for index in range(len(container.providers))]
    await eventually(lambda: not any(pool.checkedout() for pool in pools), within)

"""
The library in one process: its services, and a client that adds books and borrows them.

    python -m services.library.demo            on SQLite, in a temporary directory
    CATALOGUE_URL=postgresql://... python -m services.library.demo          as config.yaml says
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

from aiorpc import AioRpcError, ClusterRpcProxy, ServiceProxy, ServiceRunner
from aiorpc.config import Settings, load
from aiorpc.sqlalchemy import create_tables
from services.library.library import Library, NotAvailable
from services.library.members import Members

CONFIG = Path(__file__).with_name("config.yaml")


async def main(environ: Mapping[str, str] | None = None) -> None:
    """Run the demo. A database that *environ* does not name is a temporary SQLite file."""
    with tempfile.TemporaryDirectory() as directory:
        files = {
            f"{name.upper()}_URL": f"sqlite:///{directory}/{name}.sqlite"
            for name in ("catalogue", "lending", "members")
        }
        given = os.environ if environ is None else environ
        await run(load(CONFIG, {"AMQP_URI": "memory://", **files, **given}))


async def run(settings: Settings) -> None:
    await create_tables(settings, Library, Members)
    async with (
        ServiceRunner(Library, Members, config=settings),
        ClusterRpcProxy(settings) as cluster,
    ):
        await borrow_books(cluster.library, cluster.members)


async def borrow_books(library: ServiceProxy, members: ServiceProxy) -> None:
    print("\nORM objects as arguments and results, from three databases:")
    ada = await show('await members.join("Ada")', members.join("Ada"))
    austen = {"name": "Austen", "books": [{"title": "Emma"}]}
    await show(f"await library.add_author({austen})", library.add_author(austen))
    (emma, *_) = await show('await library.find_books("Em")', library.find_books("Em"))
    print("\na loan, and a second one of the same book:")
    code = f"await library.lend({emma['id']}, {ada['id']})"
    await show(code, library.lend(emma["id"], ada["id"]))
    await show(code, library.lend(emma["id"], ada["id"]))
    await show(f"await library.give_back({emma['id']})", library.give_back(emma["id"]))
    print("\nan argument that is not valid:")
    await show("await library.add_author({})", library.add_author({}))


async def show(code: str, call: Awaitable[Any]) -> Any:
    """Print *code* and its outcome; return the result."""
    result = None
    try:
        result = await call
        outcome = repr(result)
    except (AioRpcError, NotAvailable) as error:
        outcome = f"{type(error).__name__}: {error}"
    print(f"  {code}\n    -> {outcome}")
    return result


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)  # the demo provokes errors, and services log them
    asyncio.run(main())

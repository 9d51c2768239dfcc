"""
The library in one process: its services, its gateway, and a client that borrows books.

    python -m services.library.demo            on SQLite, in a temporary directory
    CATALOGUE_URL=postgresql://... python -m services.library.demo          as config.yaml says
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from aiorpc import ClusterRpcProxy, ServiceRunner
from aiorpc.config import Settings, load
from aiorpc.http import web_server
from aiorpc.sqlalchemy import create_tables
from services.library.gateway import gateway
from services.library.letters import Letters
from services.library.library import Library
from services.library.members import Members
from services.library.tour import borrow_books, over_http, read_letters

CONFIG = Path(__file__).with_name("config.yaml")


async def main(environ: Mapping[str, str] | None = None) -> None:
    """Run the demo. A database that *environ* does not name is a temporary SQLite file."""
    with tempfile.TemporaryDirectory() as directory:
        files = {
            f"{name.upper()}_URL": f"sqlite:///{directory}/{name}.sqlite"
            for name in ("catalogue", "lending", "members")
        }
        given = os.environ if environ is None else environ
        usual = {"AMQP_URI": "memory://", "WEB_SERVER_ADDRESS": "127.0.0.1:0"}
        await run(load(CONFIG, {**usual, **files, **given}))


async def run(settings: Settings) -> None:
    await create_tables(settings, Library, Members)
    async with (
        ServiceRunner(Library, Members, Letters, gateway, config=settings) as runner,
        ClusterRpcProxy(settings) as cluster,
    ):
        await borrow_books(cluster.library, cluster.members)
        await read_letters(cluster.letters)
        await over_http(f"http://127.0.0.1:{web_server(runner).port}/rpc/library/find_books")


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)  # the demo provokes errors, and services log them
    asyncio.run(main())

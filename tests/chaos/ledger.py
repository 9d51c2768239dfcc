"""
The ledger: a table in PostgreSQL with a row for every run of every call.

Each row is committed at once, outside the method's own transaction. So a call with a row has run,
even if its reply was lost.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

#: The name of our connections at the server, to tell them from others.
APPLICATION = "aiorpc-chaos"


class Ledger:
    """
    Attributes:
        table: the name of the table; every scenario has its own.
    """

    def __init__(self, url: str, table: str, pool: asyncpg.Pool) -> None:
        self.url = url
        self.table = table
        self._pool = pool

    async def runs(self) -> Counter[str]:
        """Return how often each call has run, by call id."""
        rows = await self._pool.fetch(f"SELECT call, count(*) AS runs FROM {self.table} GROUP BY 1")
        return Counter({row["call"]: row["runs"] for row in rows})

    async def runs_by_process(self) -> Counter[tuple[str, str]]:
        """Return how often each call has run in each process, by call id and process id."""
        rows = await self._pool.fetch(
            f"SELECT call, process, count(*) AS runs FROM {self.table} GROUP BY 1, 2"
        )
        return Counter({(row["call"], str(row["process"])): row["runs"] for row in rows})

    async def open_transactions(self) -> int:
        """Return how many connections of services are idle inside a transaction."""
        count: int = await self._pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 "
            "AND state LIKE 'idle in transaction%'",
            f"{APPLICATION}-{self.table}",
        )
        return count


@asynccontextmanager
async def new_ledger(url: str) -> AsyncIterator[Ledger]:
    """Create an empty ledger, and drop it at the end."""
    table = f"chaos_{secrets.token_hex(4)}"
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        await pool.execute(
            f"CREATE TABLE {table} (call text NOT NULL, process int NOT NULL, "
            "at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        try:
            yield Ledger(url, table, pool)
        finally:
            await pool.execute(f"DROP TABLE {table}")

"""A session for schemas that are used outside of a service."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.support.databases import Base, opened_session


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[AsyncSession]:
    async with opened_session(Base, database_url) as session:
        yield session

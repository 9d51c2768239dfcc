"""Objects that are nested deep: as deep as a message can carry them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema
from marshmallow_sqlalchemy.fields import Nested
from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from aiorpc.sqlalchemy import NotLoaded, dump, load
from tests.support.databases import RUN, opened_session

DEPTH = 120


class Base(DeclarativeBase):
    pass


class Node(Base):
    __tablename__ = f"node_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey(f"node_{RUN}.id"))
    children: Mapped[list[Node]] = relationship()


class NodeSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Node

    children = Nested(lambda: NodeSchema(many=True), many=True)  # marshmallow 3 needs both


def tree(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = {"id": depth, "children": []}
    while (depth := depth - 1) > 0:
        node = {"id": depth, "children": [node]}
    return node


async def test_a_deep_tree_is_loaded_stored_and_dumped(sqlite_url: str) -> None:
    limit = sys.getrecursionlimit()
    async with opened_session(Base, sqlite_url) as session:
        session.add(await load(NodeSchema, tree(DEPTH)))
        await session.commit()
        async with AsyncSession(session.bind) as other:  # which loads each level by a query
            assert await dump(NodeSchema, await other.get_one(Node, 1)) == tree(DEPTH)
            session.expunge_all()
            changed = await load(NodeSchema, tree(DEPTH), session)
            assert changed in session
        async with AsyncSession(session.bind) as other:
            with pytest.raises(NotLoaded, match=r"Node\.children"):
                await dump(NodeSchema, await other.get_one(Node, 1), lazy="raise")
    assert sys.getrecursionlimit() == limit

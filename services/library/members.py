"""The library's members. ``Database`` opens a session for a block, and commits at its end."""

from __future__ import annotations

from sqlalchemy import select

from aiorpc import rpc
from aiorpc.sqlalchemy import Database, returns
from services.library.models import Member, Membership


class Members:
    name = "members"

    db = Database(Membership)

    @rpc
    @returns(Member)
    async def join(self, name: str) -> Member:
        """Return the member of that name, or create one."""
        async with self.db.get_session() as session:
            member = await session.scalar(select(Member).where(Member.name == name))
            if member is None:
                member = Member(name=name)
                session.add(member)
        return member

    @rpc
    @returns(Member)
    async def get(self, member_id: int) -> Member | None:
        return await self.db.session.get(Member, member_id)

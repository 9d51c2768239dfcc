"""Appends its mark to a value."""

from aiorpc import rpc


class ServiceY:
    name = "service_y"

    @rpc
    async def append_identifier(self, value: str) -> str:
        return f"{value}-y"

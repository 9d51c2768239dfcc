"""Appends its mark to a value and asks service_y to append another."""

from aiorpc import RpcProxy, rpc


class ServiceX:
    name = "service_x"

    y = RpcProxy("service_y")

    @rpc
    async def remote_method(self, value: str) -> str:
        result: str = await self.y.append_identifier(f"{value}-x")
        return result

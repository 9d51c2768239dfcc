"""Puts its own mark, and lets service_y add the other."""

from aiorpc import RpcProxy, rpc


class ServiceX:
    name = "service_x"

    y = RpcProxy("service_y")

    @rpc
    async def remote_method(self, value: str) -> str:
        result: str = await self.y.append_identifier(f"{value}-x")
        return result

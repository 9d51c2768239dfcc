"""Two services of a project that uses the installed aiorpc."""

from __future__ import annotations

from typing import Any

from aiorpc import ContextData, EventDispatcher, Publisher, Queue, RpcProxy, event_handler, rpc


class ServiceY:
    name = "project_service_y"

    @rpc
    async def append_identifier(self, value: str) -> str:
        return f"{value}-y"


class ServiceX:
    name = "project_service_x"
    y = RpcProxy(ServiceY)
    dispatch = EventDispatcher()
    language = ContextData("language")
    write = Publisher(declare=[Queue("project_letters", auto_delete=True)])

    @rpc
    async def remote_method(self, value: str) -> str:
        return await self.y.append_identifier(f"{value}-x")

    @rpc
    async def what_language(self) -> str | None:
        return self.language

    @rpc
    async def greet(self, name: str) -> None:
        await self.dispatch("greeted", {"name": name})
        await self.write(f"Dear {name}", routing_key="project_letters")

    @event_handler("project_service_x", "greeted")
    async def on_greeted(self, payload: dict[str, Any]) -> str:
        return f"hello {payload['name']}"

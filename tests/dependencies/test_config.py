"""The dependencies on context data."""

from __future__ import annotations

import uuid
from typing import Any

from aiorpc import (
    AuthToken,
    ClusterRpcProxy,
    ContextData,
    Language,
    ServiceContainer,
    UserAgent,
    UserId,
    rpc,
)


class Tenant(ContextData):
    context_key = "tenant"


class Service:
    name = "service"
    language = Language()
    user_id = UserId()
    user_agent = UserAgent()
    auth_token = AuthToken()
    tenant = Tenant()
    other = Tenant("other")

    @rpc
    async def known(self) -> list[Any]:
        return [
            self.language,
            self.user_id,
            self.user_agent,
            self.auth_token,
            self.tenant,
            self.other,
        ]


async def test_each_dependency_has_the_value_of_its_key() -> None:
    config = {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}
    data = {"language": "fi", "user_id": 7, "auth_token": "t", "tenant": "a", "other": "b"}
    async with (
        ServiceContainer(Service, config),
        ClusterRpcProxy(config, context_data=data) as cluster,
    ):
        assert await cluster.service.known() == ["fi", 7, None, "t", "a", "b"]

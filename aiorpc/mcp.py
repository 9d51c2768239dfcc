"""
Offers methods of a service as tools of the Model Context Protocol, for agents. Needs the extra
``mcp``. Awaits calls; the protocol runs over stdin and stdout.

Only the methods that somebody names are tools. A method with sensitive arguments is none, because
the arguments of a tool pass through the model, and through the logs of the agent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import msgspec

try:
    import mcp_types as types
    from mcp import MCPError
    from mcp.server import Server, ServerRequestContext
    from mcp.server.stdio import stdio_server
    from mcp.shared.tool_name_validation import validate_tool_name
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'aiorpc.mcp needs {error.name}, which is not installed: pip install "aiorpc-amqp[mcp]"',
        name=error.name,
    ) from None

from .calling.proxies import ClusterProxy
from .contracts.inputs import arguments_of, input_schema
from .contracts.model import Contract, OfferedMethod
from .exceptions import (
    AioRpcError,
    BadRequest,
    ConfigurationError,
    ConnectionLost,
    DeliveryUncertain,
    MalformedReply,
    RemoteError,
    RpcTimeout,
    likely,
)
from .logs import logger
from .wire.objects import fields_of

__all__ = ["offered", "serve", "server_of"]

log = logger("aiorpc.mcp")

#: Items of a stream that a result has at most.
MOST_ITEMS = 100
#: Characters of a result, which all go into the context of a model.
LARGEST = 100_000
#: Errors after which nobody knows whether the method ran.
_UNCERTAIN = (ConnectionLost, DeliveryUncertain, MalformedReply, RpcTimeout)

_Context: TypeAlias = ServerRequestContext[Any]
_Call: TypeAlias = Callable[[OfferedMethod, Mapping[str, Any]], Awaitable[Any]]


def offered(
    contract: Contract, service: str, names: Iterable[str], *, allow_sensitive: bool = False
) -> list[OfferedMethod]:
    """
    Return the methods *names* of *service*.

    Raises:
        ConfigurationError: there is no such method, it has sensitive arguments, or its name is
            none for a tool.
    """
    known = {each.name: each for each in contract.services[service].methods}
    found = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise ConfigurationError(
                f"{service} has no method {name!r}{likely(name, known)}: it has "
                f"{', '.join(known) or 'none'}"
            )
        if not validate_tool_name(name).is_valid:
            raise ConfigurationError(
                f"{service}.{name} cannot be a tool, because agents want a name of 1 to 128 ASCII "
                "letters, digits, underscores, dashes and dots: leave the method out, or add one "
                "with such a name"
            )
        if known[name].sensitive and not allow_sensitive:
            raise ConfigurationError(
                f"{service}.{name} has sensitive arguments ({', '.join(known[name].sensitive)}), "
                "and the arguments of a tool pass through the model and the agent's logs: leave "
                "the method out, or add --allow-sensitive"
            )
        found.append(known[name])
    return found


def server_of(
    contract: Contract, service: str, methods: Iterable[OfferedMethod], cluster: ClusterProxy
) -> Server[Any]:
    """Return the server whose tools call *methods* of *service* over *cluster*."""
    by_name = {each.name: each for each in methods}
    tools = [_tool(each, contract) for each in by_name.values()]

    async def list_tools(
        context: _Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(
        context: _Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        method = by_name.get(params.name)
        if method is None:
            text = f"there is no tool {params.name!r}{likely(params.name, by_name)}"
            raise MCPError(types.INVALID_PARAMS, text)
        try:
            return _result(await _called(cluster, service, method, params.arguments or {}))
        except Exception as error:
            if not isinstance(error, AioRpcError):
                log.exception("%s.%s failed", service, method.name)
            elif not isinstance(error, BadRequest | RemoteError):  # the agent gets its name only
                log.warning("%s.%s failed: %s", service, method.name, error)
            return _error(_text_of(error, service, method))

    described = contract.services[service]
    return Server(
        f"aiorpc: {service}",
        version=described.version,
        instructions=described.description or None,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def serve(server: Server[Any]) -> None:
    """Serve one agent over stdin and stdout, until it closes stdin."""
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def _tool(method: OfferedMethod, contract: Contract) -> types.Tool:
    errors = "".join(f"\n{each.name}: {each.description}" for each in method.errors)
    stream = f"\n\nReturns at most {MOST_ITEMS} items." if method.stream else ""
    text = f"{method.description}{stream}" + (f"\n\nErrors:{errors}" if errors else "")
    return types.Tool(
        name=method.name,
        description=text.strip() or None,
        input_schema=input_schema(method, contract.schemas),
        annotations=types.ToolAnnotations(idempotent_hint=True) if method.idempotent else None,
    )


async def _called(
    cluster: ClusterProxy, service: str, method: OfferedMethod, given: Mapping[str, Any]
) -> Any:
    args, kwargs = arguments_of(method, given)
    proxy = cluster[service][method.name]
    if not method.stream:
        return await proxy(*args, **kwargs)
    items: list[Any] = []
    async with aclosing(proxy.stream(*args, **kwargs)) as stream:
        async for item in stream:
            items.append(item)
            if len(items) == MOST_ITEMS:
                break
    return items


def _result(value: Any) -> types.CallToolResult:
    encoded = msgspec.json.encode(value, enc_hook=fields_of, order="deterministic")
    if len(encoded) > LARGEST:
        return _error(
            f"the result has {len(encoded):,} bytes, and a tool returns at most {LARGEST:,}: ask "
            "for less"
        )
    content = types.TextContent(text=encoded.decode())
    return types.CallToolResult(
        content=[content], structured_content={"result": msgspec.json.decode(encoded)}
    )


def _error(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)


def _text_of(error: Exception, service: str, method: OfferedMethod) -> str:
    """
    Return what the agent may know. It needs the text of an error that it can avoid. The text of an
    unexpected error may have secrets of the service.
    """
    name = error.exc_type if isinstance(error, RemoteError) else type(error).__name__
    if isinstance(error, RemoteError):
        if name in {each.name for each in method.errors}:
            return f"{name}: {error.value}"
        return f"{service}.{method.name} failed with an unexpected error ({name})"
    if isinstance(error, BadRequest) or name in {each.name for each in method.errors}:
        return f"{name}: {error}"
    if isinstance(error, _UNCERTAIN):
        return (
            f"{service}.{method.name} gave no answer ({name}), and may have run: find out before "
            "you call it again"
        )
    if isinstance(error, AioRpcError):
        return f"{service}.{method.name} is not available ({name}): try again later"
    return f"{service}.{method.name}: the call failed ({name})"

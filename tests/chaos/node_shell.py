"""
A shell on a private RabbitMQ node: evaluates Erlang there within milliseconds. `rabbitmqctl` starts
a virtual machine for each command, which takes a second of processor time, and is used once.
"""

from __future__ import annotations

import asyncio
import re
import secrets

from tests.servers import Rabbit
from tests.servers.process import ServerError

__all__ = ["NodeShell", "binary", "set_default_queue_type"]

#: A listener on loopback. It evaluates the line of each connection, if the line has the password.
_LISTENER = """
Self = self(),
Evaluate = fun(Text) ->
    try
        {{ok, Tokens, _}} = erl_scan:string(binary_to_list(Text)),
        {{ok, Expressions}} = erl_parse:parse_exprs(Tokens),
        {{value, Value, _}} = erl_eval:exprs(Expressions, []),
        io_lib:format("ok ~0p", [Value])
    catch Class:Reason -> io_lib:format("error ~0p", [{{Class, Reason}}])
    end
end,
spawn(fun() ->
    Options = [binary, {{packet, line}}, {{active, false}}, {{ip, {{127, 0, 0, 1}}}},
               {{buffer, 65536}}],
    {{ok, Listener}} = gen_tcp:listen(0, Options),
    {{ok, Port}} = inet:port(Listener),
    Self ! {{listens, Port}},
    Serve = fun Again() ->
        {{ok, Socket}} = gen_tcp:accept(Listener),
        case gen_tcp:recv(Socket, 0, 5000) of
            {{ok, <<"{password} ", Text/binary>>}} -> gen_tcp:send(Socket, Evaluate(Text));
            _ -> ok
        end,
        gen_tcp:close(Socket),
        Again()
    end,
    Serve()
end),
receive {{listens, Port}} -> Port after 5000 -> none end.
"""


def binary(text: str) -> str:
    """Return *text* as a binary of Erlang."""
    return '<<"' + re.sub(r'(["\\])', r"\\\1", text) + '"/utf8>>'


class NodeShell:
    """The shell of *node*. It starts with the first expression, and again after a restart."""

    def __init__(self, node: Rabbit) -> None:
        self._node = node
        self._password = secrets.token_hex(8)
        self._port = 0
        self._starting = asyncio.Lock()

    async def evaluate(self, expression: str) -> str:
        """
        Evaluate *expression*, one line of Erlang without the full stop. Return the value as text.

        Raises:
            ServerError: the expression failed.
        """
        async with self._starting:
            reader, writer = await self._connected()
        writer.write(f"{self._password} {expression}.\n".encode())
        result = (await reader.read()).decode()
        writer.close()
        outcome, _, value = result.partition(" ")
        if outcome != "ok":
            raise ServerError(f"{expression} failed: {value}")
        return value

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._port:
            try:
                return await asyncio.open_connection("127.0.0.1", self._port)
            except ConnectionRefusedError:  # the node was restarted
                pass
        listener = _LISTENER.format(password=self._password)
        self._port = int(await asyncio.to_thread(self._node.ctl, "eval", listener))
        return await asyncio.open_connection("127.0.0.1", self._port)


async def set_default_queue_type(shell: NodeShell, vhost: str, kind: str) -> None:
    """Make *kind* the type of queues that are declared in *vhost* without a type from now on."""
    name, setting = binary(vhost), f"#{{default_queue_type => {binary(kind)}}}"
    try:
        await shell.evaluate(
            f"ok = rabbit_vhost:update_metadata({name}, {setting}, {binary('a test')})"
        )
    except ServerError:  # RabbitMQ 3.10
        merge = f"fun(Metadata) -> maps:merge(Metadata, {setting}) end"
        update = f"fun() -> rabbit_vhost:update_metadata({name}, {merge}) end"
        await shell.evaluate(f"rabbit_misc:execute_mnesia_transaction({update})")

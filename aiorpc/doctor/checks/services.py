"""The check of running services, which answer by discovery. Awaits the broker and their answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

from ...exceptions import AioRpcError
from ...hosting.discovery.asking import discover
from ...hosting.discovery.shapes import Info
from ...logs import counted
from ...transports import open_transport
from ...transports.amqp.conversation import CONNECTION_NAME
from ...wire.names import rpc_queue_name
from ..case import Case
from ..findings import Finding, FindingKind, NotChecked, Severity, not_checked, ok
from ..registry import check

__all__ = ["running"]

#: Seconds to connect, and to wait for answers.
CONNECTING, LISTENING = 5.0, 0.5

DIFFERING = FindingKind(
    "services-differ",
    Severity.WARNING,
    why="Processes answer one service name with other methods, so a call fails with MethodNotFound "
    "if it reaches the wrong process.",
    remedy="Wait for the end of a deploy, or give one of the services another name.",
)


async def running(case: Case) -> Sequence[Info]:
    """
    Return the instances of services that answer.

    Raises:
        NotChecked: nobody can be asked.
    """
    await case.broker()
    try:
        return await case.once("running", partial(_discovered, case))
    except AioRpcError as error:
        raise NotChecked(f"services cannot be asked: {error}", "see aiorpc ls") from None


async def _discovered(case: Case) -> Sequence[Info]:
    async with aclosing(open_transport(case.settings, name=CONNECTION_NAME)) as transport:
        await transport.start(CONNECTING)
        return await discover(transport, LISTENING)


@check
async def services(case: Case) -> AsyncGenerator[Finding]:
    instances: dict[str, list[Info]] = {}
    for each in await running(case):
        instances.setdefault(each.name, []).append(each)
    for name, found in instances.items():
        methods = {tuple(sorted(each.called_on(rpc_queue_name(name)))) for each in found}
        processes = ", ".join(each.process for each in found)
        text = f"{counted(len(found), 'instance')}: {processes}"
        if len(methods) > 1:
            yield DIFFERING.found(name, f"not all have the same methods; {text}")
        else:
            yield ok(name, text)
    for name in sorted({each.service for each in case.needs} - {*instances}):
        text = f"no instance answered within {LISTENING:g} s"
        yield not_checked(name, text, "services of Nameko, and of DISCOVERY: false, do not answer")

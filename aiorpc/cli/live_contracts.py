"""Asks running services for their contracts and their callers. Awaits the transport."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

from ..config import Settings
from ..contracts.merging import merged
from ..contracts.model import Contract
from ..contracts.reading import contract_from
from ..exceptions import ServiceUnavailable
from ..hosting.discovery.asking import Asker, asking
from ..hosting.discovery.shapes import Caller, Promises, Question, Stats
from ..transports import open_transport
from .calls import CONNECT_TIMEOUT
from .output import print_note
from .parser import Parser, add_settings, number

__all__ = ["add_live", "callers_of", "live_contract"]


def add_live(parser: Parser, text: str) -> None:
    """Add ``--live`` and the options that it needs."""
    parser.option("--live", text)
    wait = "Seconds to wait for answers. (default: 1)"
    parser.option("--wait SECONDS", wait, type=number(0.01, 60), default=1.0)
    add_settings(parser)


async def live_contract(settings: Settings, services: Sequence[str], wait: float) -> Contract:
    """
    Return the contract of the running *services*, by default of all that answer within *wait*
    seconds.

    Raises:
        ServiceUnavailable: a named service does not answer, or cannot describe itself.
        ConnectionLost, ConfigurationError: the broker is down, or refuses the connection.
    """
    async with _asker(settings) as asker:
        only = services[0] if len(services) == 1 else ""
        answers = await asker.ask(Question.CONTRACT, wait, only)
    found: dict[str, Contract] = {}
    for answer in answers:
        if isinstance(answer, Promises) and (not services or answer.name in services):
            contract = contract_from(_document_of(answer), f"the answer of {answer.process}")
            if found.setdefault(answer.name, contract) != contract:
                print_note(
                    f"the instances of {answer.name} have different contracts, so a deploy runs or "
                    f"two services share the name; {answer.process} is left out"
                )
    if missing := [name for name in services if name not in found]:
        raise ServiceUnavailable(
            f"{', '.join(missing)} sent no contract within {wait:g} s. Services of Nameko and of "
            "an earlier aiorpc send none: describe the code, `aiorpc contract MODULE`"
        )
    return merged(found[name] for name in sorted(found))


def _document_of(answer: Promises) -> object:
    """
    Return the document in *answer*.

    Raises:
        ServiceUnavailable: there is none.
    """
    if answer.documents:
        return answer.documents[0]
    why = answer.fault or "its contract is too large for one message"
    raise ServiceUnavailable(
        f"{answer.name} ({answer.process}) cannot describe itself: {why}. Describe its code: "
        "`aiorpc contract MODULE`"
    )


async def callers_of(
    settings: Settings, services: Iterable[str], wait: float
) -> Mapping[str, Mapping[str, Caller]]:
    """
    Return who called the methods and the handlers of the running *services*, by
    ``service.method``: the calls of all instances, and the seconds since the last of them.

    Raises:
        ConnectionLost, ConfigurationError: the broker is down, or refuses the connection.
    """
    wanted = set(services)
    async with _asker(settings) as asker:
        answers = await asker.ask(Question.STATS, wait)
    found: dict[str, dict[str, Caller]] = {}
    for answer in answers:
        if not isinstance(answer, Stats) or answer.name not in wanted:
            continue
        for endpoint in answer.endpoints:
            callers = found.setdefault(f"{answer.name}.{endpoint.name}", {})
            for name, caller in endpoint.data.callers.items():
                before = callers.get(name, Caller(0, caller.ago))
                ago = min(before.ago, caller.ago)
                callers[name] = Caller(before.calls + caller.calls, ago)
    return found


@asynccontextmanager
async def _asker(settings: Settings) -> AsyncGenerator[Asker]:
    async with aclosing(open_transport(settings, name="aiorpc contract")) as transport:
        await transport.start(CONNECT_TIMEOUT)
        async with asking(transport) as asker:
            yield asker

"""
Asks a service what its methods take and return. Awaits the transport.

A page asks when it shows a method, because a contract is larger than all figures of a look.
"""

from __future__ import annotations

import asyncio

import msgspec

from ..contracts.hiding import hide_by_name
from ..contracts.model import Schema, Service
from ..contracts.reading import contract_from
from ..exceptions import ConfigurationError
from ..hosting.discovery.asking import Asker
from ..hosting.discovery.shapes import Promises, Question

__all__ = ["Describing", "Promised"]


class Promised(msgspec.Struct, kw_only=True):
    """
    What a service promises.

    Attributes:
        service: ``None`` if it does not tell.
        schemas: by name; the schemas of the service refer to them.
        why: why it does not tell.
    """

    service: Service | None = None
    schemas: dict[str, Schema] = {}
    why: str = ""


class Describing:
    """
    Asks one service after the other.

    Args:
        asker: asks nothing else, since it has the answers to one question at a time.
        wait: seconds to wait for the answers.
    """

    def __init__(self, asker: Asker, wait: float) -> None:
        self._asker, self._wait = asker, wait
        self._turn = asyncio.Lock()

    async def of(self, service: str) -> Promised:
        """
        Return what the running *service* promises. Of several instances, one is believed.

        Raises:
            ConnectionLost: the question could not be sent.
        """
        async with self._turn:
            answers = await self._asker.ask(Question.CONTRACT, self._wait, service)
        promises = [each for each in answers if isinstance(each, Promises)]
        why = (
            f"no contract came within {self._wait:g} s. Services of Nameko and of an earlier "
            "aiorpc send none"
        )
        for each in promises:
            if not each.documents:
                why = each.fault or "its contract is too large for one message"
                continue
            try:
                contract = contract_from(each.documents[0], f"the answer of {each.process}")
            except ConfigurationError as error:
                why = str(error)
                continue
            if service in contract.services:
                hide_by_name(contract)
                return Promised(service=contract.services[service], schemas=contract.schemas)
        return Promised(why=why)

"""A channel with one consumer that acks by itself. Writes acks in company, through its lane."""

from __future__ import annotations

from typing import Any

from ...logs import logger
from ...wire.message import Message
from ..base import Heard
from .consumer import ConsumerChannel

__all__ = ["ListenerChannel"]

log = logger(__name__)


class ListenerChannel(ConsumerChannel):
    """
    A channel that acks messages after their handler has returned. Nobody waits for these acks, so
    they join the next write. Messages arrive in order, so an ack of the last message covers all.
    """

    __slots__ = ("_heard", "_heard_up_to")

    def __init__(self, *args: Any, heard: Heard, **kwargs: Any) -> None:
        super().__init__(*args, received=lambda delivery: heard(delivery.message), **kwargs)
        self._heard = heard
        self._heard_up_to = 0

    def delivered(
        self, tag: int, redelivered: bool, exchange: str, routing_key: str, message: Message
    ) -> None:
        if self._refused is not None or not self.open:
            super().delivered(tag, redelivered, exchange, routing_key, message)
            return
        if not self._heard_up_to:
            self.lane.write_in_company(self._joined_acks)
        self._heard_up_to = tag
        try:
            self._heard(message)
        except Exception:
            log.exception(
                "the handler of a message (exchange %r, key %r) failed", exchange, routing_key
            )

    def _joined_acks(self) -> bytes:
        tag, self._heard_up_to = self._heard_up_to, 0
        return self.encoder.ack(tag, multiple=True) if self.open else b""

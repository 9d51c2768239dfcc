"""
Nameko's protocol as one configuration sets it. Pure: nothing here awaits or does I/O.

Nameko and aiorpc services call one another, so everything on the wire is Nameko's (2.14.1 and 3.0,
captured; the trap numbers in this folder are those of that capture). What aiorpc adds, Nameko
ignores.
"""

from __future__ import annotations

import msgspec

from ..config import Settings
from .content import Content
from .message import Exchange, Queue
from .names import REPLY_QUEUE_EXPIRES, rpc_queue_name
from .payloads import Payloads
from .replies import Replies
from .requests import Requests
from .serializers import SerializerSet

__all__ = ["Wire"]


class Wire(msgspec.Struct, frozen=True, eq=False):
    """
    Encodes and decodes messages as one configuration sets it.

    Attributes:
        rpc_exchange: the exchange of requests and replies.
        requests: from :class:`~aiorpc.Call` to message, and from message to arguments.
        replies: from result or error to message, and back.
        payloads: events and plain messages.
    """

    rpc_exchange: Exchange
    requests: Requests
    replies: Replies
    payloads: Payloads

    @classmethod
    def of(cls, settings: Settings) -> Wire:
        """
        The wire of *settings*.

        Raises:
            ConfigurationError: the settings name an unknown serializer.
        """
        content = Content(SerializerSet.of(settings), settings.max_message_size)
        return cls(
            rpc_exchange=Exchange(settings.rpc_exchange, "topic"),
            requests=Requests(content, settings.clock_tolerance),
            replies=Replies(content, persistent=settings.call_profile == "durable"),
            payloads=Payloads(content),
        )

    def rpc_queue(self, service: str) -> Queue:
        """The queue of the requests to *service*."""
        return Queue(rpc_queue_name(service), self.rpc_exchange, f"{service}.*")

    def reply_queue(self, owner: str, reply_to: str) -> Queue:
        """
        The queue of the replies to *owner*.

        It is durable and neither exclusive nor auto-delete, so that replies wait while their caller
        reconnects. The broker deletes it if the caller does not come back (trap 14).
        """
        name = f"rpc.reply-{owner}-{reply_to}"
        return Queue(name, self.rpc_exchange, reply_to, expires=REPLY_QUEUE_EXPIRES)

"""
Contacts with a broker: from its name over its addresses to the login. Awaits the resolver and
sockets. Each wait has a bound.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence

import msgspec

from ..blocking import in_thread
from ..config import BrokerUrl, Settings
from ..transports.amqp.conversation import Conversation, NotAmqp, Refused
from ..transports.amqp.errors import reason

__all__ = ["Address", "Contact", "Login", "connected", "contact_with", "log_in", "resolved"]

#: Seconds for the resolver.
RESOLVING = 5.0


class Address(msgspec.Struct, frozen=True):
    """One address behind the host name of *url*."""

    url: BrokerUrl
    ip: str

    def __str__(self) -> str:
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{ip}:{self.url.port}" + (f" ({self.url.host})" if self.url.host != self.ip else "")


class Contact(msgspec.Struct, frozen=True):
    """
    The first words with one address: the conversation, or the *trouble* that ended it.

    ``trouble`` is an ``ssl.SSLError``, a ``NotAmqp``, or another ``OSError``. ``otherwise``: AMQP
    works there with TLS instead of without, or without instead of with.
    """

    address: Address
    conversation: Conversation | None
    trouble: Exception | None = None
    otherwise: bool = False


class Login(msgspec.Struct, frozen=True):
    """
    The login to one URL. *step* is what failed: ``network``, ``mechanism``, ``credentials``,
    ``vhost``, or "".
    """

    url: BrokerUrl
    conversation: Conversation | None
    step: str = ""
    refused: Refused | None = None


async def resolved(url: BrokerUrl) -> tuple[Sequence[Address], float]:
    """
    Return the addresses behind the host name of *url*, and the seconds of the resolver.

    Raises:
        OSError: the resolver knows none, or does not answer.
    """
    began = time.monotonic()
    name = url.host.encode() if url.host.isascii() else url.host
    async with asyncio.timeout(RESOLVING):
        found = await in_thread(socket.getaddrinfo, name, url.port, type=socket.SOCK_STREAM)
    ips = dict.fromkeys(str(each[4][0]) for each in found)
    return [Address(url, ip) for ip in ips], time.monotonic() - began


async def connected(
    address: Address,
    context: ssl.SSLContext | None,
    name: str | None,
    opened: list[Conversation],
) -> Conversation:
    """Connect to *address*, and add the conversation to *opened*. Raises OSError."""
    conversation = await Conversation.connect(address.ip, address.url.port, context, name)
    opened.append(conversation)
    return conversation


async def contact_with(
    address: Address,
    context: ssl.SSLContext | None,
    name: str | None,
    opened: list[Conversation],
) -> Contact:
    """Begin a conversation with *address*. Add what must be closed to *opened*."""
    try:
        conversation = await connected(address, context, name, opened)
        await conversation.begin()
    except (ConnectionRefusedError, TimeoutError, ssl.SSLCertVerificationError) as error:
        return Contact(address, None, error)
    except (OSError, NotAmqp) as error:
        otherwise = await _works_otherwise(address, context, opened)
        return Contact(address, None, error, otherwise)
    return Contact(address, conversation)


async def _works_otherwise(
    address: Address, context: ssl.SSLContext | None, opened: list[Conversation]
) -> bool:
    """Return whether AMQP works there with TLS if *context* is None, and without TLS otherwise."""
    other = ssl.create_default_context() if context is None else None
    try:
        conversation = await connected(address, other, address.url.host, opened)
        await conversation.begin()
    except ssl.SSLCertVerificationError:
        return True
    except (OSError, NotAmqp):
        return False
    return True


async def log_in(settings: Settings, url: BrokerUrl, conversation: Conversation) -> Login:
    """Log in with the user, the password and the vhost of *url*."""
    mechanism = settings.login_method_for(url)
    if mechanism not in conversation.mechanisms:
        return Login(url, conversation, "mechanism")
    step = "credentials"
    try:
        await conversation.log_in(url.user, url.password, mechanism)
        step = "vhost"
        await conversation.open(url.vhost)
    except Refused as refused:
        return Login(url, None, step, refused)
    except OSError as error:
        return Login(url, None, step, Refused(0, reason(error)))
    return Login(url, conversation)

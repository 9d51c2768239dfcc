"""
What is examined: the settings, the services, the broker, the management API. Each fact is asked for
once, by the first check that needs it.

Awaits the resolver, sockets, the broker and the management API. Each wait has a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from ..config import BrokerUrl, Settings, ssl_context, tls_server_hostname
from ..exceptions import AioRpcError
from ..management import ListedQueue, Management, ManagementRefused
from ..transports.amqp.conversation import Conversation, QueueCounts, Refused
from ..wire.message import Queue
from .contacts import Address, Contact, Login, connected, contact_with, log_in, resolved
from .findings import NotChecked
from .needs import Needs

__all__ = ["NO_MANAGEMENT", "USE_MANAGEMENT", "Case"]

T = TypeVar("T")

#: Requests to the management API at a time.
_AT_A_TIME = 4
NO_MANAGEMENT = "needs --management URL"
USE_MANAGEMENT = "name RabbitMQ's management API: --management http://user:password@host:15672"


class Case:
    """
    Args:
        settings: the configuration.
        needs: what each named service needs.
        management: the management API, if the user named it.
    """

    def __init__(
        self, settings: Settings, needs: Sequence[Needs] = (), management: Management | None = None
    ) -> None:
        self.settings = settings
        self.needs = needs
        self.given_management = management
        self._facts: dict[object, asyncio.Task[Any]] = {}
        self._opened: list[Conversation] = []
        self._asking = asyncio.Semaphore(_AT_A_TIME)

    async def aclose(self) -> None:
        """Close all connections."""
        for task in self._facts.values():
            task.cancel()
        await asyncio.gather(*self._facts.values(), return_exceptions=True)
        await asyncio.gather(*(each.aclose() for each in self._opened))

    async def once(self, key: object, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """
        Return the fact *key*. The first call asks for it; its cancellation does not end the
        question, whose answer other checks await.
        """
        task: asyncio.Task[T] | None = self._facts.get(key)
        if task is None:
            task = self._facts[key] = asyncio.create_task(ask())
        return await asyncio.shield(task)

    # --- the network

    @property
    def urls(self) -> tuple[BrokerUrl, ...]:
        """
        The URLs of the broker.

        Raises:
            NotChecked: the broker is in the process.
        """
        urls = self.settings.broker_urls
        if urls[0].scheme == "memory":
            raise NotChecked("memory:// has no server to look at", "name a RabbitMQ server")
        return urls

    @property
    def vhost(self) -> str:
        return self.urls[0].vhost

    async def addresses(self, url: BrokerUrl) -> tuple[Sequence[Address], float]:
        """
        Return the addresses behind the host name of *url*, and the seconds of the resolver.

        Raises:
            OSError: the resolver knows none, or does not answer.
        """
        return await self.once(("addresses", url), partial(resolved, url))

    async def contacts(self, url: BrokerUrl) -> Sequence[Contact]:
        """
        Begin a conversation with each address of *url*.

        Raises:
            OSError: see :meth:`addresses`.
            ConfigurationError: ``AMQP_SSL`` is wrong.
        """
        addresses, _ = await self.addresses(url)
        context, name = ssl_context(self.settings, url), tls_server_hostname(self.settings, url)

        async def ask() -> Sequence[Contact]:
            return await asyncio.gather(
                *(contact_with(each, context, name, self._opened) for each in addresses)
            )

        return await self.once(("contacts", url), ask)

    async def another_conversation(self, address: Address) -> Conversation:
        """Begin one more conversation with *address*, which the case closes at its end."""
        context = ssl_context(self.settings, address.url)
        name = tls_server_hostname(self.settings, address.url)
        conversation = await connected(address, context, name, self._opened)
        await conversation.begin()
        return conversation

    # --- the broker

    async def logins(self) -> Sequence[Login]:
        """
        Log in at each URL, at the first of its addresses that speaks AMQP.

        Raises:
            NotChecked: there is no server.
        """
        return await asyncio.gather(
            *(self.once(("login", url), partial(self._login, url)) for url in self.urls)
        )

    async def _login(self, url: BrokerUrl) -> Login:
        try:
            contacts = await self.contacts(url)
        except (OSError, AioRpcError):
            return Login(url, None, "network")
        spoken = [each.conversation for each in contacts if each.conversation is not None]
        if not spoken:
            return Login(url, None, "network")
        return await log_in(self.settings, url, spoken[0])

    async def broker(self) -> Conversation:
        """
        Return a connection on which the broker answers questions.

        Raises:
            NotChecked: there is none.
        """
        logins = await self.logins()
        for login in logins:
            if login.conversation is not None and not login.step:
                return login.conversation
        raise NotChecked("there is no connection to the broker", "mend the errors above first")

    async def queue(self, name: str) -> QueueCounts | Refused:
        """
        Ask the broker about the queue *name*, which must not expire: the question would prolong its
        life (rule of every tool that looks). Raises NotChecked.
        """
        broker = await self.broker()
        try:
            return await broker.queue(name)
        except Refused as refused:
            return refused
        except OSError as error:
            raise NotChecked(f"the connection to the broker was lost: {error}") from None

    async def exchange(self, name: str) -> Refused | None:
        """Ask whether the exchange *name* exists; ``None`` if it does. Raises NotChecked."""
        broker = await self.broker()
        try:
            await broker.exchange(name)
        except Refused as refused:
            return refused
        except OSError as error:
            raise NotChecked(f"the connection to the broker was lost: {error}") from None
        return None

    # --- the management API

    @property
    def management(self) -> Management:
        """
        Raises:
            NotChecked: the user named no management API.
        """
        if self.given_management is None:
            raise NotChecked(NO_MANAGEMENT, USE_MANAGEMENT)
        return self.given_management

    async def api(self, *path: str) -> Any:
        """
        Return what the management API answers for *path*; ``None`` if there is no such object.

        Raises:
            NotChecked: it does not answer, or refuses.
        """
        management = self.management

        async def ask() -> Any:
            async with self._asking:
                return await management.get(*path)

        try:
            return await self.once(("api", *path), ask)
        except ManagementRefused as error:
            if error.status == 404:
                return None
            raise NotChecked(str(error), USE_MANAGEMENT) from None
        except AioRpcError as error:
            raise NotChecked(str(error), USE_MANAGEMENT) from None

    async def listed(self) -> Mapping[str, ListedQueue]:
        """Return the queues of the vhost, by name. Raises NotChecked, see :meth:`api`."""
        management, vhost = self.management, self.vhost

        async def ask() -> Mapping[str, ListedQueue]:
            return {each.name: each for each in await management.queues(vhost)}

        try:
            return await self.once("listed", ask)
        except AioRpcError as error:
            raise NotChecked(str(error), USE_MANAGEMENT) from None

    async def exchanges(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the exchanges of the vhost, by name. Raises NotChecked, see :meth:`api`."""
        found = await self.api("exchanges", self.vhost)
        return {each["name"]: each for each in found or ()}

    async def bindings(self, queue: str) -> Sequence[tuple[str, str]]:
        """
        Return exchange and key of each binding of *queue*, without that of the default exchange.
        Raises NotChecked, see :meth:`api`.
        """
        found = await self.api("queues", self.vhost, queue, "bindings")
        return [(each["source"], each["routing_key"]) for each in found or () if each["source"]]

    @property
    def queues(self) -> Mapping[str, Queue]:
        """The queues of the services that exist between two runs."""
        return {each.queue.name: each.queue for need in self.needs for each in need.lasting}

"""Facts that no test can bring about at a real broker, told by a fake management API."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiorpc import Retry, event_handler
from aiorpc.config import parse_broker_urls
from aiorpc.doctor.checks.broker import _refused
from aiorpc.doctor.contacts import Login
from aiorpc.doctor.findings import Severity
from aiorpc.transports.amqp.conversation import Refused
from tests.support.doctor import Broken, Making, Setup, broken, diagnosed, expect, setups
from tests.support.management import fake_api

TOLD: list[Broken] = []


@asynccontextmanager
async def _told(url: str, date: datetime | None = None, **answers: Any) -> AsyncIterator[Setup]:
    queues = {"page_count": 1, "items": answers.pop("queues", [])}
    with fake_api({"queues/%2F": queues, **answers}, date=date) as api:
        yield Setup({"AMQP_URI": url}, management=api)


@broken(TOLD, "node-down", "rabbit@two")
def a_node_that_does_not_run(url: str) -> Making:
    return _told(url, nodes=[{"name": "rabbit@two", "running": False}])


@broken(TOLD, "cluster-partition", "rabbit@one")
def a_partition(url: str) -> Making:
    node = {"name": "rabbit@one", "running": True, "partitions": ["rabbit@two"]}
    return _told(url, nodes=[node])


@broken(TOLD, "broker-alarm", "rabbit@one")
def a_full_disk(url: str) -> Making:
    node = {"name": "rabbit@one", "running": True, "disk_free_alarm": True}
    return _told(url, nodes=[node])


@broken(TOLD, "connections-without-heartbeat", "/")
def a_service_without_heartbeats(url: str) -> Making:
    found = [
        {"user_provided_name": "stock", "peer_host": "10.0.0.7", "timeout": 0},
        {"user_provided_name": "shop", "peer_host": "10.0.0.8", "timeout": 10},
        {"user_provided_name": "aiorpc doctor", "peer_host": "10.0.0.9", "timeout": 0},
    ]
    return _told(url, **{"vhosts/%2F/connections": found})


@broken(TOLD, "clock-skew", "http://127.0.0.1")
def a_clock_that_is_late(url: str) -> Making:
    return _told(url, date=datetime.now(UTC) - timedelta(minutes=2))


@broken(TOLD, "queue-down", "rpc-shop")
def a_queue_on_a_node_that_is_down(url: str) -> Making:
    return _told(url, queues=[{"name": "rpc-shop", "state": "down"}])


@broken(TOLD, "consumers-stuck", "rpc-shop")
def consumers_that_finish_nothing(url: str) -> Making:
    queue = {
        "name": "rpc-shop",
        "consumers": 2,
        "messages_ready": 7,
        "messages_unacknowledged": 200,
        "message_stats": {"deliver_get": 900, "deliver_get_details": {"rate": 0.0}},
    }
    return _told(url, queues=[queue])


@broken(TOLD, "messages-old", "rpc-shop")
def messages_with_an_old_timestamp(url: str) -> Making:
    sent = int(time.time()) - 3600
    queue = {"name": "rpc-shop", "messages_ready": 7, "head_message_timestamp": sent}
    return _told(url, queues=[queue])


@broken(TOLD, "messages-old", "evt-stock-empty--shop.refill")
def messages_of_a_queue_that_nobody_used_for_hours(url: str) -> Making:
    idle = (datetime.now(UTC) - timedelta(hours=3)).strftime("%Y-%m-%d %H:%M:%S")
    name = "evt-stock-empty--shop.refill"
    queue = {"name": name, "messages_ready": 7, "consumers": 0, "idle_since": idle}
    return _told(url, queues=[queue])


@broken(TOLD, "messages-parked", "rpc-shop.parked")
def messages_parked_by_a_service_that_is_not_named(url: str) -> Making:
    queue = {"name": "rpc-shop.parked", "messages": 7, "messages_ready": 7, "consumers": 0}
    return _told(url, queues=[queue])


@broken(TOLD, "queue-is-mirrored", "rpc-shop")
def a_mirrored_queue(url: str) -> Making:
    queue = {"name": "rpc-shop", "effective_policy_definition": {"ha-mode": "all"}}
    return _told(url, queues=[queue])


class Shop:
    name = "shop"

    @event_handler("stock", "empty", retry=Retry(delays=(60,)))
    async def refill(self, payload: Any) -> None: ...

    @event_handler("stock", "full", reliable_delivery=False, retry=Retry(delays=(60,)))
    async def show(self, payload: Any) -> None: ...


async def _classic(url: str, queue: str) -> AsyncIterator[Setup]:
    """A classic queue that exists since before the vhost got another default queue type."""
    answers = {
        "vhosts": [{"name": "/", "default_queue_type": "quorum"}],
        "permissions/%2F/guest": dict.fromkeys(("configure", "write", "read"), ".*"),
    }
    async with _told(url, queues=[{"name": queue, "type": "classic"}], **answers) as setup:
        yield setup._replace(services=[Shop])


@broken(TOLD, "queue-is-classic", "evt-stock-empty--shop.refill")
def a_classic_queue_where_quorum_is_the_default(url: str) -> Making:
    return asynccontextmanager(_classic)(url, "evt-stock-empty--shop.refill")


async def test_a_delay_queue_that_moves_to_quorum_gets_its_guarantee() -> None:
    delayed = "evt-stock-empty--shop.refill.retry-60000ms"
    async with asynccontextmanager(_classic)("amqp://127.0.0.1:1/", delayed) as given:
        findings = await diagnosed(given.config, *given.services, management=given.management)
    (found,) = [each for each in findings if each.name == "queue-is-classic"]
    assert '"x-dead-letter-strategy": "at-least-once"' in "".join(found.commands)


@pytest.mark.parametrize("beside", ["retry-60000ms", "parked"])
async def test_queues_beside_one_that_cannot_be_a_quorum_queue_are_classic(beside: str) -> None:
    queue = f"evt-stock-full--shop.show.{beside}"
    async with asynccontextmanager(_classic)("amqp://127.0.0.1:1/", queue) as given:
        findings = await diagnosed(given.config, *given.services, management=given.management)
    assert queue in {each.subject for each in findings}
    assert "queue-is-classic" not in {each.name for each in findings}


@broken(TOLD, "messages-expire", "evt-stock-empty--shop.refill.retry-60000ms")
def a_policy_that_shortens_the_wait_for_the_next_attempt(url: str) -> Making:
    queue = {
        "name": "evt-stock-empty--shop.refill.retry-60000ms",
        "arguments": {"x-message-ttl": 60_000, "x-dead-letter-exchange": ""},
        "effective_policy_definition": {"message-ttl": 1000},
    }
    return _told(url, queues=[queue])


async def test_the_wait_for_the_next_attempt_is_no_finding() -> None:
    queue = {
        "name": "evt-stock-empty--shop.refill.retry-500ms",
        "arguments": {"x-message-ttl": 500, "x-dead-letter-exchange": ""},
        "consumers": 0,
    }
    async with _told("amqp://127.0.0.1:1/", queues=[queue]) as given:
        findings = await diagnosed(given.config, management=given.management)
    about = [each for each in findings if each.subject == queue["name"]]
    assert {each.severity for each in about} == {Severity.OK}


@setups(TOLD)
async def test_the_doctor_finds_what_the_api_tells(setup: Broken) -> None:
    await expect(setup, "amqp://127.0.0.1:1/")


def test_the_brokers_refusals_have_names() -> None:
    """In RabbitMQ's words, 3.10 to 4.3."""
    (url,) = parse_broker_urls("amqp://shop:x@host/shop")
    for step, code, text, name in (
        (
            "credentials",
            403,
            "ACCESS_REFUSED - Login was refused using PLAIN",
            "credentials-refused",
        ),
        ("credentials", 0, "the broker closed the connection", "login-failed"),
        ("vhost", 530, "NOT_ALLOWED - vhost shop not found", "vhost-missing"),
        (
            *("vhost", 530),
            "NOT_ALLOWED - access to vhost 'shop' refused for user 'shop'",
            "vhost-refused",
        ),
        ("vhost", 541, "INTERNAL_ERROR - vhost 'shop' is down", "vhost-down"),
        (
            *("vhost", 530),
            "NOT_ALLOWED - access to vhost 'shop' refused for user 'shop': connection limit (5) is "
            "reached",
            "connection-limit",
        ),
    ):
        assert _refused(Login(url, None, step, Refused(code, text))).name == name, text

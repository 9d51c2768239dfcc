"""
Broken setups that need no server, and those that need a RabbitMQ. The doctor finds each by name.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pamqp.commands as spec
import pytest

from aiorpc import (
    Exchange,
    Publisher,
    Queue,
    RpcProxy,
    ServiceContainer,
    consume,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.doctor.case import Case
from aiorpc.doctor.checks import network, queues, services
from aiorpc.doctor.findings import Severity
from aiorpc.doctor.needs import needs_of
from aiorpc.management import ListedQueue, Management
from aiorpc.transports import open_transport
from aiorpc.transports.amqp.errors import Refused
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message
from tests.support.amqp import from_broker
from tests.support.amqp_proxy import Proxy, proxied
from tests.support.doctor import Broken, Setup, broken, diagnosed, expect, setups, with_parts

TLS = Path(__file__).parent.parent / "data" / "tls"
ALONE: list[Broken] = []
ON_RABBITMQ: list[Broken] = []


class Greeter:
    name = f"doctor_{uuid.uuid4().hex[:8]}"

    @rpc
    async def hello(self) -> str:
        return "hello"


# Without a server. The URL is one at which nobody listens.


@broken(ALONE, "name-unknown", "no.test")
async def a_misspelt_host(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": "amqp://no.test/"})


@broken(ALONE, "address-unreachable", "127.0.0.1")
async def a_broker_that_does_not_run(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url})


@broken(ALONE, "not-amqp", "127.0.0.1")
async def the_port_of_another_program(url: str) -> AsyncIterator[Setup]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield Setup({"AMQP_URI": f"amqp://127.0.0.1:{port}/"})


@broken(ALONE, "connection-unencrypted", "two.test")
async def a_connection_without_tls(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": "amqp://shop:secret@two.test:1/"})


@broken(ALONE, "guest-from-elsewhere", "two.test")
async def the_user_guest_on_another_host(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": "amqp://two.test:1/"})


@broken(ALONE, "certificate-unverified")
async def tls_without_a_check_of_the_certificate(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url, "AMQP_SSL": {"cert_reqs": 0}})


@broken(ALONE, "configuration-wrong")
async def a_missing_file_of_authorities(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url, "AMQP_SSL": {"ca_certs": "/no/such/file"}})


@broken(ALONE, "setting-without-effect")
async def a_setting_without_effect(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url, "TRANSPORT_OPTIONS": {"max_retries": 3}})


@broken(ALONE, "calls-unbounded", "RPC_TIMEOUT")
async def calls_without_a_time_limit(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url, "RPC_TIMEOUT": None})


@broken(ALONE, "prefetch-below-workers", "PREFETCH_COUNT")
async def workers_that_never_work(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url, "PREFETCH_COUNT": 1})


@broken(ALONE, "heartbeat-off", "HEARTBEAT")
async def no_heartbeats(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url, "HEARTBEAT": 0})


@broken(ALONE, "heartbeat-slow", "HEARTBEAT")
async def slow_heartbeats(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url, "HEARTBEAT": 600})


@broken(ALONE, "heartbeat-hasty")
async def hasty_heartbeats_in_the_url(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": f"{url}?heartbeat=1"})


@broken(ALONE, "management-unreachable", "http://127.0.0.1:1")
async def a_management_api_that_does_not_run(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url}, management="http://127.0.0.1:1")


@asynccontextmanager
async def _peer(**properties: str) -> AsyncIterator[int]:
    """A peer that lets everybody log in, and has these *properties*. Yields its port."""
    answers = [
        spec.Connection.Start(server_properties=properties, mechanisms="PLAIN"),
        spec.Connection.Tune(channel_max=100, frame_max=131072),
        spec.Connection.OpenOk(),
    ]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for each in answers:
            await reader.read(1 << 16)
            writer.write(from_broker(each))
        await reader.read(1 << 16)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@broken(ALONE, "broker-unsupported", "RabbitMQ 3.6.16")
async def an_old_broker(url: str) -> AsyncIterator[Setup]:
    async with _peer(product="RabbitMQ", version="3.6.16") as port:
        yield Setup({"AMQP_URI": f"amqp://127.0.0.1:{port}/"})


@broken(ALONE, "nodes-of-different-clusters", "AMQP_URI")
async def urls_of_two_clusters(url: str) -> AsyncIterator[Setup]:
    async with _peer(cluster_name="one") as first, _peer(cluster_name="two") as second:
        yield Setup({"AMQP_URI": f"amqp://127.0.0.1:{first}/;amqp://127.0.0.1:{second}/"})


# TLS


def _context(file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = TLS / ("expired.pem" if file == "expired.pem" else "broker-key.pem")
    context.load_cert_chain(TLS / file, key)
    return context


@asynccontextmanager
async def _tls(url: str, file: str = "broker.pem", **options: Any) -> AsyncIterator[Setup]:
    async with proxied(url, tls=_context(file)) as proxy:
        ssl_options = {"ca_certs": str(TLS / "ca.pem"), **options}
        yield Setup({"AMQP_URI": proxy.url, "AMQP_SSL": ssl_options})


@broken(ON_RABBITMQ, "tls-name", "localhost")
async def a_certificate_of_another_name(url: str) -> AsyncIterator[Setup]:
    async with _tls(url) as setup:
        yield setup


@broken(ON_RABBITMQ, "tls-chain", "localhost")
async def a_certificate_of_an_unknown_authority(url: str) -> AsyncIterator[Setup]:
    other = str(TLS / "expired.pem")
    async with _tls(url, ca_certs=other, server_hostname="broker.test") as setup:
        yield setup


@broken(ON_RABBITMQ, "tls-expired", "localhost")
async def an_expired_certificate(url: str) -> AsyncIterator[Setup]:
    async with _tls(url, "expired.pem", ca_certs=str(TLS / "expired.pem")) as setup:
        yield setup


@asynccontextmanager
async def _handshakes(context: ssl.SSLContext, **options: Any) -> AsyncIterator[Setup]:
    """A server that only shakes hands, and sends OpenSSL's alerts, as asyncio's does not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(_shake_hands, listener, context))
        options = {"ca_certs": str(TLS / "ca.pem"), "server_hostname": "broker.test", **options}
        port = listener.getsockname()[1]
        try:
            yield Setup({"AMQP_URI": f"amqps://127.0.0.1:{port}/", "AMQP_SSL": options})
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            await serving


@broken(ALONE, "tls-client-certificate", "127.0.0.1")
async def a_broker_that_demands_a_certificate(url: str) -> AsyncIterator[Setup]:
    context = _context("broker.pem")
    context.load_verify_locations(TLS / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    async with _handshakes(context) as setup:
        yield setup


@broken(ALONE, "tls-handshake", "127.0.0.1")
async def a_broker_with_another_version_of_tls(url: str) -> AsyncIterator[Setup]:
    context = _context("broker.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with _handshakes(context, tls_minimum_version="TLSv1_3") as setup:
        yield setup


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with suppress(OSError), context.wrap_socket(client, server_side=True) as secured:
            secured.read()


@setups(ALONE)
async def test_the_doctor_finds_it_without_a_server(
    setup: Broken, closed_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "CONNECTING", 0.1)  # some peers here answer no question
    await expect(setup, closed_url)


@pytest.fixture
def closed_url() -> str:
    return "amqp://127.0.0.1:1/"


# On RabbitMQ. The URL is its URL.


@broken(ON_RABBITMQ, "tls-expected", "localhost")
async def a_connection_without_tls_to_a_port_with_it(url: str) -> AsyncIterator[Setup]:
    async with proxied(url, tls=_context("broker.pem")) as proxy:
        yield Setup({"AMQP_URI": with_parts(proxy.url)})


@broken(ON_RABBITMQ, "tls-not-spoken")
async def tls_to_a_port_without_it(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": with_parts(url, scheme="amqps")})


@broken(ON_RABBITMQ, "address-unreachable", "127.0.0.2")
async def a_name_with_a_dead_address(url: str) -> AsyncIterator[Setup]:
    async with proxied(url) as proxy:
        yield Setup({"AMQP_URI": proxy.url.replace("@localhost:", "@two.test:")})


@broken(ON_RABBITMQ, "credentials-refused")
async def a_wrong_password(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": with_parts(url, login="guest:wrong")})


@broken(ON_RABBITMQ, "vhost-missing")
async def a_vhost_that_does_not_exist(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": with_parts(url, path="/nowhere")})


@broken(ON_RABBITMQ, "login-method-missing")
async def a_login_method_that_the_broker_lacks(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url, "LOGIN_METHOD": "GSSAPI"})


@broken(ON_RABBITMQ, "channel-limit", "channel_max")
async def more_channels_than_the_broker_permits(url: str) -> AsyncIterator[Setup]:
    proxy = Proxy(url)
    proxy.channel_max = 4
    async with proxied(url, proxy=proxy):
        yield Setup({"AMQP_URI": proxy.url}, [Greeter])


@broken(ON_RABBITMQ, "queue-not-declared-yet", f"rpc-{Greeter.name}")
async def a_service_that_never_started(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url}, [Greeter])


@broken(ON_RABBITMQ, "queue-missing", f"rpc-{Greeter.name}")
async def a_passive_queue_that_nobody_declared(url: str) -> AsyncIterator[Setup]:
    yield Setup({"AMQP_URI": url, "QUEUE_OPTIONS": {"rpc-*": {"passive": True}}}, [Greeter])


@broken(ON_RABBITMQ, "exchange-missing", "nowhere.events")
async def an_exchange_that_nobody_declared(url: str) -> AsyncIterator[Setup]:
    class Listener:
        name = Greeter.name

        @event_handler("nowhere", "happened")
        async def handle(self, payload: Any) -> None: ...

    yield Setup({"AMQP_URI": url, "DECLARE_EVENT_EXCHANGES": False}, [Listener])


@broken(ON_RABBITMQ, "exchange-missing", "nobody.has.it")
async def a_publisher_to_an_exchange_that_nobody_declared(url: str) -> AsyncIterator[Setup]:
    class Sender(Greeter):
        publish = Publisher(Exchange("nobody.has.it", passive=True))

    yield Setup({"AMQP_URI": url}, [Sender])


@broken(ON_RABBITMQ, "called-service-missing", "no_such_service")
async def a_call_of_a_service_that_does_not_exist(url: str) -> AsyncIterator[Setup]:
    class Caller(Greeter):
        other = RpcProxy("no_such_service")

    yield Setup({"AMQP_URI": url}, [Caller])


@asynccontextmanager
async def _queue(url: str, name: str) -> AsyncIterator[None]:
    async with open_transport(resolve(url), name="tests") as transport:
        await transport.declare(queues=[Queue(name)])
        message = Outgoing(exchange="", routing_key=name, message=Message(body=b"1"))
        await transport.publish(message)
        try:
            yield
        finally:
            await transport.delete(name)


@broken(ON_RABBITMQ, "consumers-missing")
async def a_queue_that_nobody_consumes(url: str) -> AsyncIterator[Setup]:
    queue = f"doctor-{uuid.uuid4().hex}"

    class Reader:
        name = Greeter.name

        @consume(Queue(queue))
        async def handle(self, payload: Any) -> None: ...

    async with _queue(url, queue):
        yield Setup({"AMQP_URI": url}, [Reader])


@broken(ON_RABBITMQ, "services-differ", Greeter.name)
async def two_services_with_one_name(url: str) -> AsyncIterator[Setup]:
    class Other:
        name = Greeter.name

        @rpc
        async def goodbye(self) -> None: ...

    async with ServiceContainer(Greeter, url), ServiceContainer(Other, url) as container:
        yield Setup({"AMQP_URI": url})
        await container.transport.delete(f"rpc-{Greeter.name}")


@broken(ON_RABBITMQ, "messages-parked", f"rpc-{Greeter.name}.parked")
async def a_parked_message(url: str) -> AsyncIterator[Setup]:
    async with _queue(url, f"rpc-{Greeter.name}.parked"):
        yield Setup({"AMQP_URI": url}, [Greeter])


@setups(ON_RABBITMQ)
async def test_the_doctor_finds_it_on_rabbitmq(setup: Broken, rabbitmq_uri: str) -> None:
    await expect(setup, rabbitmq_uri)


async def test_a_certificate_that_expires_soon(
    rabbitmq_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate of the tests is valid for 100 years."""
    for days, severity in ((10**6, Severity.WARNING), (21, Severity.OK)):
        monkeypatch.setattr(network, "RENEW", days)
        async with _tls(rabbitmq_uri, server_hostname="broker.test") as setup:
            findings = await diagnosed(setup.config)
        (found,) = [each for each in findings if "the certificate expires in" in each.what]
        assert found.severity is severity
        assert found.name == ("tls-expires-soon" if severity is Severity.WARNING else "tls")


async def test_a_slow_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "SLOW", -1.0)
    findings = await diagnosed({"AMQP_URI": "amqp://127.0.0.1:1/"})
    assert "name-slow" in {each.name for each in findings}


async def test_a_dead_address_beside_a_living_one_is_a_warning(rabbitmq_uri: str) -> None:
    async with asynccontextmanager(a_name_with_a_dead_address)(rabbitmq_uri) as setup:
        found = {each.name: each for each in await diagnosed(setup.config)}
    assert found["address-unreachable"].severity is Severity.WARNING
    assert found["login"].severity is Severity.OK


async def test_what_amqp_cannot_tell_is_not_checked_and_never_ok(rabbitmq_uri: str) -> None:
    findings = await diagnosed({"AMQP_URI": rabbitmq_uri}, Greeter)
    found: dict[str, set[Severity]] = {}
    for each in findings:
        found.setdefault(each.name, set()).add(each.severity)
    for name in ("permissions", "flags", "exchanges", "bindings", "policies", "ages", "clock"):
        assert found[name] == {Severity.NOT_CHECKED}, name
    assert found["consumer-timeout"] == found["nodes"] == {Severity.NOT_CHECKED}
    untold = [each for each in findings if each.severity is Severity.NOT_CHECKED]
    assert all(each.what and each.remedy for each in untold)


async def test_services_that_answer_are_looked_at_without_their_modules(rabbitmq_uri: str) -> None:
    async with ServiceContainer(Greeter, rabbitmq_uri) as container:
        findings = await diagnosed({"AMQP_URI": rabbitmq_uri})
        await container.transport.delete(f"rpc-{Greeter.name}")
    about = {each.name: each for each in findings if Greeter.name in each.subject}
    assert about["services"].severity is about["consumers"].severity is Severity.OK
    assert about["services"].what.startswith("1 instance: ")
    assert about["consumers"].what == "1 consumer; 0 messages wait"


@pytest.mark.alone  # a service of a test beside it may stop between two looks
async def test_a_healthy_broker_has_neither_warnings_nor_errors(rabbitmq_uri: str) -> None:
    findings = await diagnosed({"AMQP_URI": rabbitmq_uri})
    mild = {Severity.OK, Severity.NOTE, Severity.NOT_CHECKED}
    beside = {"services", "consumers", "clock"}  # of the tests that run beside this one
    assert [
        each for each in findings if each.severity not in mild and each.name not in beside
    ] == []


async def test_a_parked_queue_on_a_dead_node_is_not_checked_and_never_ok(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refused(case: Case, name: str) -> Refused:
        return Refused(404, "home node 'rabbit@two' of durable queue is down or inaccessible")

    async def listed(case: Case) -> dict[str, ListedQueue]:
        return {name: ListedQueue(name, state="down") for name in case.queues}

    settings = resolve("memory://")
    needs = [needs_of(ServiceContainer(Greeter, settings))]
    monkeypatch.setattr(Case, "queue", refused)
    monkeypatch.setattr(Case, "listed", listed)
    for management in (None, Management("http://127.0.0.1:1", settings)):
        case = Case(settings, needs, management)
        (found,) = [each async for each in queues.parked(case)]
        assert found.subject == f"rpc-{Greeter.name}.parked"
        assert found.severity is Severity.NOT_CHECKED


async def test_the_doctor_changes_nothing(rabbitmq_uri: str) -> None:
    await diagnosed({"AMQP_URI": rabbitmq_uri}, Greeter)
    async with open_transport(resolve(rabbitmq_uri), name="tests") as transport:
        for queue in (f"rpc-{Greeter.name}", f"rpc-{Greeter.name}.parked"):
            state = await transport.inspect(queue, 10)
            assert state is not None
            assert not state.exists

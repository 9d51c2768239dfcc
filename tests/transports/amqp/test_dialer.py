"""
How a connection to RabbitMQ comes about: several URLs, refusals, TLS, hosts that are none. On a
real broker.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from aiorpc.config import BrokerUrl, resolve
from aiorpc.exceptions import ConfigurationError, ConnectionLost
from aiorpc.transports.amqp.dialer import Dialer
from aiorpc.transports.amqp.link import Link
from aiorpc.transports.amqp.transport import AmqpTransport
from aiorpc.transports.base import State
from tests.support.amqp import connected, through_proxy
from tests.support.amqp_proxy import proxied
from tests.support.breakable import reaches
from tests.support.files import CERTIFICATES
from tests.support.transports import PATIENCE, Bench, Inbox, to
from tests.support.waiting import eventually

pytestmark = pytest.mark.rabbitmq


async def test_a_list_of_urls_is_tried_until_one_answers(bench: Bench) -> None:
    dead = "amqp://guest:guest@127.0.0.1:1/"
    async with connected({**bench.config, "AMQP_URI": f"{dead};{bench.config['AMQP_URI']}"}) as one:
        assert one.state is State.CONNECTED
        assert one.url.endswith(urlsplit(bench.config["AMQP_URI"]).netloc.split("@")[1] + "/")


@pytest.mark.parametrize(
    ("user", "password", "vhost", "names"),
    [
        ("guest", "wrong-secret", "", ["user 'guest'", "AMQP_URI"]),
        ("nobody", "wrong-secret", "", ["user 'nobody'"]),
        (None, None, "no-such-vhost", ["vhost 'no-such-vhost'"]),
    ],
)
async def test_who_is_refused_is_told_at_once(
    bench: Bench, user: str | None, password: str | None, vhost: str, names: list[str]
) -> None:
    parts = urlsplit(bench.config["AMQP_URI"])
    credentials = f"{user or parts.username}:{password or parts.password}"
    url = f"amqp://{credentials}@{parts.hostname}:{parts.port}/{vhost}"
    transport = AmqpTransport(resolve({**bench.config, "AMQP_URI": url}))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConfigurationError) as caught:
            await transport.start()
    for name in names:
        assert name in str(caught.value)
    assert "wrong-secret" not in str(caught.value)
    assert transport.state is State.CLOSED


async def test_a_patient_start_waits_for_a_vhost_and_logs_each_new_reason(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    right = resolve(bench.config).broker_urls
    transport = AmqpTransport(resolve({**bench.config, "AMQP_URI": "amqp://guest@127.0.0.1:1/"}))
    dialer = transport.supervisor.dialer
    starting = asyncio.create_task(transport.start(patient=True))
    try:
        await eventually(lambda: "the connection was refused" in caplog.text)
        dialer.urls = resolve(f"{bench.config['AMQP_URI']}no-such-vhost").broker_urls
        await eventually(lambda: "refuses vhost 'no-such-vhost'" in caplog.text)
        attempts = await attempts_of(dialer, 2)
        assert attempts == ["refuses vhost"] * 2
        dialer.urls = right
        await starting
    finally:
        starting.cancel()
        await transport.aclose()
    assert len([each for each in caplog.messages if "still connecting" in each]) == 2


async def attempts_of(dialer: Dialer, number: int) -> list[str]:
    """Return the errors of the next attempts of *dialer*."""
    connect, errors = dialer.connect, []

    async def noting(url: BrokerUrl) -> Link:
        try:
            return await connect(url)
        except ConfigurationError as error:
            errors.append("refuses vhost" if "refuses vhost" in str(error) else str(error))
            raise

    dialer.connect = noting
    await eventually(lambda: len(errors) >= number)
    dialer.connect = connect
    return errors


async def test_a_patient_start_ends_if_the_broker_refuses_the_user(bench: Bench) -> None:
    url = bench.config["AMQP_URI"].replace("guest:guest@", "guest:wrong@")
    transport = AmqpTransport(resolve({**bench.config, "AMQP_URI": url}))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConfigurationError, match="refuses user 'guest'"):
            await transport.start(patient=True)


async def test_a_refusal_after_a_success_is_waited_out(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        parts = urlsplit(bench.config["AMQP_URI"])
        dialer = transport.supervisor.dialer
        dialer.urls, right = (
            resolve({"AMQP_URI": f"amqp://guest:wrong@{parts.hostname}:{parts.port}/"}).broker_urls,
            dialer.urls,
        )
        proxy.hang_up()
        await eventually(lambda: "refuses user 'guest'" in caplog.text)
        assert "logfile. Set the right user" in caplog.text
        assert transport.state is State.CONNECTING
        dialer.urls = right
        await reaches(transport, State.CONNECTED)


async def test_a_broker_that_accepts_and_says_nothing_is_not_waited_for(bench: Bench) -> None:
    async with proxied(bench.config["AMQP_URI"]) as proxy:
        proxy.muted = True
        url = f"{proxy.url}?connect_timeout=0.1"
        transport = AmqpTransport(resolve({**bench.config, "AMQP_URI": url}))
        with pytest.raises(ConnectionLost, match="no answer in time"):
            await transport.start(0.5)
        assert proxy.connections > 1


async def test_a_start_ends_although_its_attempt_times_out_in_the_same_turn(bench: Bench) -> None:
    async with proxied(bench.config["AMQP_URI"]) as proxy:
        proxy.muted = True
        settings = resolve({"AMQP_URI": f"{proxy.url}?connect_timeout=0.2"})
        transport = AmqpTransport(settings, name="tests of amqp")
        async with asyncio.timeout(PATIENCE):
            for _ in range(3):
                with pytest.raises(ConnectionLost):
                    await transport.start(0.2)
            await transport.aclose()


async def test_starting_may_be_cancelled_at_any_moment(bench: Bench) -> None:
    steps = 0
    while True:
        transport = AmqpTransport(resolve(bench.config))
        starting = asyncio.create_task(transport.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        if starting.done():
            await transport.aclose()
            break
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await transport.aclose()
        steps += 1 + steps // 8
    assert steps > 5


async def test_closing_while_the_broker_refuses_ends_at_any_moment(bench: Bench) -> None:
    steps, refused = 0, False
    async with proxied(bench.config["AMQP_URI"]) as proxy:
        config = {**bench.config, "AMQP_URI": proxy.url}
        while not refused:
            async with connected(config) as transport:
                dialer = transport.supervisor.dialer
                dialer.urls = resolve({"AMQP_URI": f"{proxy.url}gone"}).broker_urls
                proxy.hang_up()
                for _ in range(steps):
                    await asyncio.sleep(0)
                refused = "refuses vhost" in dialer.trouble
                async with asyncio.timeout(PATIENCE):
                    await transport.aclose()
            assert transport.state is State.CLOSED
            steps += 1 + steps // 8
    assert steps > 5


class _CancelledWhileItCloses:
    """A connection whose handshake fails, and whose clean-up swallows the cancel that it meets."""

    async def connect(self) -> None:
        raise OSError("refused")

    async def close(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


async def test_a_cancel_that_cleaning_up_swallows_still_ends_the_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "aiorpc.transports.amqp.link._Connection", lambda *_, **__: _CancelledWhileItCloses()
    )
    dialer = AmqpTransport(resolve(bench.config)).supervisor.dialer
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(dialer.connect(dialer.urls[0]))


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls(bench: Bench, trusted: bool) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATES / "broker.pem", CERTIFICATES / "broker-key.pem")
    options = {"server_hostname": "broker.test"}
    if trusted:
        options["ca_certs"] = str(CERTIFICATES / "ca.pem")
    async with proxied(bench.config["AMQP_URI"], tls=server) as proxy:
        config = {**bench.config, "AMQP_URI": proxy.url, "AMQP_SSL": options}
        if not trusted:
            with pytest.raises(ConfigurationError, match="certificate"):
                await AmqpTransport(resolve(config)).start(PATIENCE)
            return
        async with connected(config) as transport:
            queue, inbox = bench.queue(), Inbox()
            await transport.subscribe(queue, inbox)
            for body in (b"small", bytes(300_000)):
                await transport.publish(to(queue, body, mandatory=True), PATIENCE)
                assert await inbox.bodies(1) == [body]


async def test_an_attempt_that_goes_on_is_told_as_that(bench: Bench) -> None:
    async with proxied(bench.config["AMQP_URI"]) as proxy:
        proxy.muted = True
        transport = AmqpTransport(resolve({**bench.config, "AMQP_URI": proxy.url}))
        with pytest.raises(ConnectionLost, match=r"localhost:\d+/ within 0\.2 s: no answer yet"):
            await transport.start(0.2)


async def test_a_host_whose_name_is_none_is_trouble_that_is_told() -> None:
    url = f"amqp://guest:guest@{'x' * 64}.example/"
    transport = AmqpTransport(resolve({"AMQP_URI": url}))
    with pytest.raises(ConnectionLost, match=r"example:5672/ within 0\.2 s: \[Errno -?\d+\]"):
        await transport.start(0.2)
    await transport.aclose()


async def test_more_channels_than_the_broker_permits_are_a_configuration_error(
    bench: Bench,
) -> None:
    async with proxied(bench.config["AMQP_URI"]) as proxy:
        proxy.channel_max = 4  # the broker cuts a connection that opens more
        async with connected({**bench.config, "AMQP_URI": proxy.url}) as transport:
            first, second, third = (bench.queue() for _ in range(3))
            inbox = Inbox()
            subscription = await transport.subscribe(first, inbox)
            await transport.subscribe(second, inbox)
            await transport.inspect(first.name, PATIENCE)
            with pytest.raises(ConfigurationError, match=r"all 4 channels.*channel_max") as error:
                await transport.subscribe(third, inbox)
            assert third.name in str(error.value)
            await subscription.cancel()
            # Channels that close soon are waited for.
            declared = [bench.queue() for _ in range(8)]
            await asyncio.gather(*(transport.declare(queues=[queue]) for queue in declared))
            subscription = await transport.subscribe(first, inbox)
            # The channels that are open keep working; a number that was released serves again.
            await transport.publish(to(first, mandatory=True), PATIENCE)
            assert await inbox.bodies(1) == [b"x"]
            await subscription.cancel()
            await eventually(lambda: len(transport.supervisor.link.attached) == 2)
            await transport.subscribe(third, inbox)
            await transport.publish(to(third, mandatory=True), PATIENCE)
            assert await inbox.bodies(1) == [b"x"]
            assert transport.supervisor.reconnects == 0

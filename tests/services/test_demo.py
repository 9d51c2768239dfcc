"""The article's example in ``services/``: what `make demo` prints, and the same on RabbitMQ."""

from __future__ import annotations

import re
import time

import pytest

from aiorpc import ClusterRpcProxy, ServiceContainer
from aiorpc.cli.loading import load_services
from aiorpc.config import load
from services import client, demo
from services.service_x import ServiceX
from services.service_y import ServiceY


def without_times(text: str) -> list[str]:
    return [re.sub(r" +\([\d.]+ ms\)$", "", line) for line in text.splitlines()]


async def test_the_demo_prints_calls_and_what_comes_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = time.monotonic()
    await demo.demo("memory://")
    assert time.monotonic() - start < 3
    lines = without_times(capsys.readouterr().out)
    assert lines.count("    -> 'hello-x-y'") == 2
    assert lines.count("    -> 'world-x-y'") == 1
    assert lines[-1] == (
        "    -> RpcTimeout: service_x.remote_method gave no answer within 0.5 s: "
        "queue rpc-service_x has 0 consumers: start the service"
    )


async def test_the_demo_is_the_same_on_rabbitmq(
    rabbitmq_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await demo.demo("memory://")
    on_memory = without_times(capsys.readouterr().out)
    await demo.demo(rabbitmq_uri)
    on_rabbitmq = without_times(capsys.readouterr().out)
    assert len(on_memory) == len(on_rabbitmq)
    for ours, theirs in zip(on_memory, on_rabbitmq, strict=True):
        if "memory://" not in ours:
            assert ours == theirs


async def test_the_client_calls_what_run_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    services = load_services(["services.service_x", "services.service_y"])
    assert services == [ServiceX, ServiceY]
    async with ServiceContainer(ServiceX, "memory://"), ServiceContainer(ServiceY, "memory://"):
        await client.main("memory://")
        async with ClusterRpcProxy("memory://") as cluster:
            assert await cluster.service_x.remote_method("hello") == "hello-x-y"
    assert "'hello-x-y'" in capsys.readouterr().out


def test_the_configuration_of_the_example_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMQP_URI", raising=False)
    settings = load("services/config.yaml")
    assert settings.amqp_uri == "amqp://guest:guest@localhost/"
    assert settings.max_workers == 10
    assert settings.logging is not None

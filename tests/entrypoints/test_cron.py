"""``@cron`` in one process: what it refuses, and that it fires."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from aiorpc import ConfigurationError, ServiceContainer, cron
from aiorpc.testing import entrypoint_hook, entrypoint_waiter


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("* * * *", "Wrong number of fields"),
        ("61 * * * *", "Bad minute"),
        ("* * 31 2 *", "Bad day-of-month"),
        ("@daily", "Wrong number of fields"),
        ("* * * * MON#6", "Bad day-of-week"),
        ("0 0 */30 2 MON#5", "no time in the next 50 years"),
        ("", "Wrong number of fields"),
        (5, "is a str, not a int"),
        (b"* * * * *", "is a str, not a bytes"),
    ],
)
def test_a_bad_expression_is_refused_when_the_class_is_made(expression: Any, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):

        class Service:
            @cron(expression)
            def method(self) -> None: ...


@pytest.mark.parametrize(
    ("zone", "error"),
    [
        ("Europe/Berlim", r"'Europe/Berlim' \(did you mean 'Europe/Berlin'\?\)"),
        ("../etc/passwd", "does not know the time zone"),
        ("Europe", "does not know the time zone"),
        ("", "does not know the time zone"),
        (None, "does not know the time zone None"),
        (2, "does not know the time zone 2"),
        ("a\0b", "does not know the time zone"),
    ],
)
def test_an_unknown_zone_is_refused_when_the_class_is_made(zone: Any, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        cron("* * * * *", tz=zone)


def test_catching_up_needs_a_singleton() -> None:
    with pytest.raises(ConfigurationError, match="catch_up of @cron needs singleton=True"):
        cron("* * * * *", catch_up=True)


def test_a_wrong_argument_names_the_right_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"takes .*expression, tz"):
        cron("* * * * *", concurrency="skip")  # nameko-cron has this one


async def test_a_method_that_takes_arguments_is_refused() -> None:
    class Service:
        name = "service"

        @cron("* * * * *")
        def method(self, argument: int) -> None: ...

    with pytest.raises(ConfigurationError, match=r"service\.method does not take"):
        async with ServiceContainer(Service, "memory://"):
            pass


def test_cronsim_is_imported_where_a_cron_is_declared() -> None:
    code = (
        "import sys; sys.modules['cronsim'] = None; from aiorpc import *; import aiorpc;"
        "aiorpc.timer(5); aiorpc.cron('* * * * *')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: @cron needs cronsim, which is not installed: "
        "pip install 'aiorpc-amqp[cron]'"
    )


@pytest.mark.slow
async def test_a_cron_fires_goes_on_after_an_error_and_each_instance_has_its_own() -> None:
    fired: asyncio.Queue[str] = asyncio.Queue()

    class Service:
        name = "service"

        @cron("* * * * * *")
        async def method(self) -> None:
            fired.put_nowait("method")
            raise ValueError("errors do not stop a cron")

    config = "memory://cron"
    async with ServiceContainer(Service, config), ServiceContainer(Service, config):
        async with asyncio.timeout(10):
            for _ in range(4):
                await fired.get()


@pytest.mark.slow
async def test_a_test_fires_a_cron_by_hand_or_waits_for_it() -> None:
    class Service:
        name = "service"

        @cron("0 3 * * *", "Europe/Berlin", singleton=True)
        async def report(self) -> str:
            return "done"

        @cron("* * * * * *", singleton=True)
        def often(self) -> str:
            return "fired"

    async with ServiceContainer(Service, "memory://") as container:
        async with entrypoint_hook(container, "report") as report:
            assert await report() == "done"
        async with entrypoint_waiter(container, "often") as result:
            pass
        assert result.get() == "fired"

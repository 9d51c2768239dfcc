"""Values of sensitive arguments show neither in the log nor in replies; over every transport."""

from __future__ import annotations

import io
import logging
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from aiorpc import Call, ClusterRpcProxy, RemoteError, ServiceContainer, rpc
from aiorpc.config import hide
from aiorpc.hosting.sensitive import secrets_of

PASSWORD = "SECRET-it's\n\u00e9"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("aiorpc").addHandler(handler)
    yield stream
    logging.getLogger("aiorpc").removeHandler(handler)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
async def test_the_log_and_the_reply_hide_the_values_of_sensitive_arguments(
    broker_config: dict[str, Any],
    written: io.StringIO,
    level: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Service:
        name = f"sensitive_{uuid.uuid4().hex[:8]}"

        @rpc(sensitive_arguments=("password", "user.pin"))
        async def log_in(self, user: dict[str, Any], password: str = "") -> None:
            try:
                raise KeyError(password)
            except KeyError as error:
                raise ValueError(f"{user} sent {password}", [password]) from error

        @rpc(KeyError, sensitive_arguments="password")
        async def expected(self, password: str) -> None:
            raise KeyError(password)

    caplog.set_level(level, "aiorpc.worker")
    async with (
        ServiceContainer(Service, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        service = cluster[Service.name]
        user = {"name": "Ann", "pin": "12"}
        with pytest.raises(RemoteError) as wrong:
            await service.log_in(user, password=PASSWORD)
        assert wrong.value.exc_args == ("{'name': 'Ann', 'pin': '***'} sent ***", ["***"])
        with pytest.raises(RemoteError, match=r'KeyError "\*\*\*"'):
            await service.expected(PASSWORD)
    log = written.getvalue()
    assert "SECRET" not in log
    assert """ValueError: ("{'name': 'Ann', 'pin': '***'} sent ***", ["***"])""" in log
    assert 'raised an expected error: KeyError("***")' in log
    assert "in log_in" in log  # the traceback


def test_parts_of_arguments_are_found_by_their_names() -> None:
    class Service:
        @rpc(sensitive_arguments=("card.number", "codes[1]", "amount", "missing", "blob"))
        async def pay(
            self, card: Any, codes: Any, amount: Any, blob: bytes, *, note: str
        ) -> None: ...

    (entrypoint,) = vars(Service.pay)["__aiorpc_entrypoints__"]
    entrypoint.method_name = "pay"
    arguments = ({"number": 4711, "name": "Ann"}, ["a", "b"], Decimal("1.10"), b"\xff")
    found = secrets_of(entrypoint, Call("s", "pay", arguments, {"note": "n"}), Service)
    assert {"4711", "b", "1.10", "\ufffd", "\\xff"} == set(found) - {"\\\\xff"}


def test_short_secrets_are_masked_as_words_only() -> None:
    assert hide(["pin 12 of 1234", {"k": "12"}], ["12"]) == ["pin *** of 1234", {"k": "***"}]
    assert hide("abcdefg", ["cdef"]) == "ab***g"

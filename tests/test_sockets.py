"""The sockets that a process listens on."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from aiorpc.sockets import bind


async def test_the_resolver_runs_in_a_thread_that_does_not_delay_the_end_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve, delays = socket.getaddrinfo, list[bool]()

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        delays.append(not threading.current_thread().daemon)
        return resolve(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with await bind("127.0.0.1:0", "ADMIN_ADDRESS"):
        assert delays == [False]

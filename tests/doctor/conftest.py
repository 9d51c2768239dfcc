"""The resolver of the doctor's tests."""

from __future__ import annotations

import socket
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """``two.test`` has two addresses, of which only the first answers; ``no.test`` has none."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host in {b"no.test", "no.test"}:
            raise socket.gaierror(-2, "Name or service not known")
        if host in {b"two.test", "two.test"}:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
                for ip in ("127.0.0.1", "127.0.0.2")
            ]
        return resolve(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

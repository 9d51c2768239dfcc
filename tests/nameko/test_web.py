"""``@http`` beside Nameko's: the same methods answer the same requests alike. Needs no broker."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from aiorpc import BadRequest
from aiorpc.http import NamekoHttpEntrypoint
from tests.nameko import virtualenvs
from tests.nameko.conftest import unavailable
from tests.nameko.peers.web_methods import service_of
from tests.nameko.processes import PEERS
from tests.support.http import serving

pytestmark = pytest.mark.nameko

KEY = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
REQUESTS = [
    *("GET /books/7", "POST /books/7", "HEAD /books/7", "GET /books/007", "GET /body"),
    *("GET /status", "GET /headers", "GET /expected", "GET /refused", "GET /failed"),
    *("GET /folder/", "GET /files/a/b.txt", "GET /files/a%C3%B6", "GET /files/a%2Fb"),
    f"GET /both/x/{KEY}/1.5",
]
#: Nameko answers with werkzeug's HTML, and we with problem+json or a redirect.
WITHOUT_METHOD = ["GET /nowhere", "PUT /books/7", "GET /books/x", "GET /folder"]


@pytest.fixture
def nameko(unused_tcp_port: int) -> Iterator[str]:
    """The URL of Nameko's web server."""
    try:
        python = virtualenvs.python_of("2.14.1")
    except virtualenvs.Unavailable as error:
        unavailable(str(error))
    process = subprocess.Popen(
        [python, "-W", "ignore", PEERS / "web.py", str(unused_tcp_port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"serving\n"
        yield f"http://127.0.0.1:{unused_tcp_port}"
        process.kill()
    process.wait()


async def test_the_same_methods_answer_requests_as_with_nameko(nameko: str) -> None:
    web = service_of(NamekoHttpEntrypoint.decorator, BadRequest)
    async with (
        serving(web) as (_, client),
        httpx.AsyncClient(base_url=nameko, verify=False) as theirs,
    ):
        for request in REQUESTS:
            method, path = request.split()
            answers = [await each.request(method, path) for each in (theirs, client)]
            told = [
                (
                    answer.status_code,
                    answer.headers["content-type"],
                    answer.headers.get("content-length"),
                    answer.headers.get("x-shop"),
                    answer.text,
                )
                for answer in answers
            ]
            assert told[0] == told[1], request
        for request in WITHOUT_METHOD:
            method, path = request.split()
            answers = [await each.request(method, path) for each in (theirs, client)]
            assert answers[0].status_code == answers[1].status_code, request

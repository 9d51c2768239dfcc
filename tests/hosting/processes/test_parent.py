"""The parent of a worker process, as the process sees it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from aiorpc import AioRpcError, ConfigurationError
from aiorpc.hosting.processes import parent as module
from aiorpc.hosting.processes.messages import Condition, Failure, Lines, Listening, encoded
from aiorpc.hosting.processes.parent import Parent
from aiorpc.hosting.report import Report
from tests.support.waiting import eventually_blocking


class Services:
    """Services whose report is as told."""

    is_stopping = False

    def __init__(self) -> None:
        self.reasons: tuple[str, ...] = ()

    def status(self) -> Report:
        return Report(alive=True, ready=not self.reasons, reasons=self.reasons)


class Mortal(Parent):
    """A parent whose death does not end the test run."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.is_watched = False
        self.died = threading.Event()

    def watch(self) -> None:
        self.is_watched = True
        super().watch()

    def _end(self) -> None:
        self.died.set()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Parent, socket.socket]]:
    """The parent, and the parent's end of the socket."""
    monkeypatch.setattr(module, "LOOK", 0.001)
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    parent = Mortal(theirs)
    with theirs:
        with ours:
            yield parent, ours
        assert not parent.is_watched or parent.died.wait(10)


def heard(connection: socket.socket, lines: Lines) -> list[object]:
    return [*lines.feed(connection.recv(1 << 16))]


def test_the_parent_hears_each_change_at_once(pair: tuple[Parent, socket.socket]) -> None:
    parent, ours = pair
    services, lines = Services(), Lines()
    with parent.informed(services, stops_within=7.0, beat=lambda: None):
        assert heard(ours, lines) == [Condition(True, True, (), 7.0)]
        services.reasons = ("no connection",)
        assert heard(ours, lines) == [Condition(True, False, ("no connection",), 7.0)]


def test_a_beat_is_heard_and_made_without_a_change(
    pair: tuple[Parent, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT", 0.01)
    parent, ours = pair
    beats: list[int] = []
    lines = Lines()
    with parent.informed(Services(), stops_within=0.0, beat=lambda: beats.append(1)):
        assert len([*heard(ours, lines), *heard(ours, lines), *heard(ours, lines)]) >= 3
        assert eventually_blocking(lambda: len(beats) >= 3, every=0.001)


def test_an_error_of_the_report_is_logged_and_the_next_report_is_sent(
    pair: tuple[Parent, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    parent, ours = pair
    services = Services()

    def status() -> Report:
        monkeypatch.undo()
        raise RuntimeError("a set changed")

    monkeypatch.setattr(services, "status", status)
    with parent.informed(services, stops_within=0.0, beat=lambda: None):
        assert isinstance(heard(ours, Lines())[0], Condition)
    assert "the parent process does not know how this worker process is" in caplog.text


def test_a_parent_that_does_not_read_delays_nothing_and_hears_whole_messages_later(
    pair: tuple[Parent, socket.socket],
) -> None:
    parent, ours = pair
    services = Services()
    services.reasons = ("x" * 5_000_000,)  # more than the socket holds
    large = Condition(True, False, services.reasons, 0.0)
    last = Condition(True, False, ("at last",), 0.0)
    with parent.informed(services, stops_within=0.0, beat=lambda: None):
        assert eventually_blocking(lambda: parent._unsent, every=0.001)
        services.reasons = last.reasons
        lines, conditions = Lines(), list[object]()
        while last not in conditions:
            conditions += heard(ours, lines)
    assert conditions[0] == large


def test_a_failure_arrives_although_the_process_ends_at_once(
    pair: tuple[Parent, socket.socket],
) -> None:
    parent, ours = pair
    failure = Failure("no disk", 1, final=False)
    parent.fail(failure)
    assert heard(ours, Lines()) == [failure]


async def test_the_parent_gives_the_socket_of_an_address(
    pair: tuple[Parent, socket.socket],
) -> None:
    parent, ours = pair
    parent.watch()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        asking = asyncio.create_task(parent.listen("127.0.0.1:0", "WEB_SERVER_ADDRESS"))
        asked = await asyncio.to_thread(ours.recv, 4096)
        assert msgspec.json.decode(asked) == {
            "type": "listen",
            "address": "127.0.0.1:0",
            "key": "WEB_SERVER_ADDRESS",
        }
        socket.send_fds(ours, [encoded(Listening("127.0.0.1:0"))], [bound.fileno()])
        with await asking as given:
            assert given.getsockname() == bound.getsockname()
            assert not given.get_inheritable()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("it is taken", "it is taken"),
        # A process that may open no more files gets no socket.
        (None, r"the socket of 1\.2\.3\.4:1, and it did not arrive: .* \(ulimit -n\)"),
    ],
)
async def test_an_address_without_a_socket_is_an_error_with_its_reason(
    pair: tuple[Parent, socket.socket], error: str | None, said: str
) -> None:
    parent, ours = pair
    parent.watch()
    asking = asyncio.create_task(parent.listen("1.2.3.4:1", "WEB_SERVER_ADDRESS"))
    await asyncio.to_thread(ours.recv, 4096)
    ours.sendall(encoded(Listening("1.2.3.4:1", error)))
    with pytest.raises(ConfigurationError, match=said):
        await asking


async def test_a_parent_that_does_not_answer_is_an_error(
    pair: tuple[Parent, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWERS_WITHIN", 0.01)
    parent, _ = pair
    with pytest.raises(AioRpcError, match=r"did not open 127\.0\.0\.1:0 within 0\.01 s"):
        await parent.listen("127.0.0.1:0", "WEB_SERVER_ADDRESS")

"""``aiorpc parked``: what a person on call types and sees."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TypeVar

import aio_pika
import pytest

from aiorpc.cli import parked_queues
from aiorpc.cli.app import complete
from aiorpc.cli.commands.parked import ACTIONS
from aiorpc.config import resolve
from aiorpc.parked.queues import ParkedQueue
from aiorpc.parked.settling import AT_ONCE
from aiorpc.transports import open_transport
from tests.support.command_line import Done, Started, Terminal, invoke
from tests.support.management import fake_api
from tests.support.parked import Yard

T = TypeVar("T")


@asynccontextmanager
async def aio_pika_consumer(uri: str, *, queue: str, exclusive: bool) -> AsyncIterator[None]:
    async def received(message: object) -> None: ...

    async with await aio_pika.connect(uri) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        there = await channel.get_queue(queue)
        await there.consume(received, exclusive=exclusive)
        yield


class Board:
    """A queue and its parked queue on RabbitMQ, for tests that have no loop of their own."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.source = self.parked = ""
        self.do(self._begin)

    def do(self, work: Callable[[Yard], Awaitable[T]]) -> T:
        """Run *work* with a connection of its own."""

        async def connected() -> T:
            settings = resolve({"AMQP_URI": self.uri, "MAX_MESSAGE_SIZE": None})
            async with aclosing(open_transport(settings, name="a test")) as transport:
                await transport.start(5)
                yard = Yard(transport)
                if self.source:
                    yard.source, yard.parked = self.source, self.parked
                    yard.queues = [self.source, self.parked]
                return await work(yard)

        return asyncio.run(connected())

    async def _begin(self, yard: Yard) -> None:
        await yard.declare()
        self.source, self.parked = yard.source, yard.parked

    def park(self, *bodies: bytes, **options: object) -> None:
        self.do(lambda yard: yard.park(*bodies, **options))

    def bodies(self, queue: str) -> list[bytes]:
        return self.do(lambda yard: yard.bodies(queue))

    def run(self, action: str, *words: str, stdin: str = "") -> Done:
        return invoke("parked", action, *words, "--broker", self.uri, stdin=stdin)

    def close(self) -> None:
        async def delete(yard: Yard) -> None:
            for queue in yard.queues:
                await yard.transport.delete(queue)

        self.do(delete)


@pytest.fixture
def board(rabbitmq_uri: str) -> Iterator[Board]:
    board = Board(rabbitmq_uri)
    yield board
    board.close()


def test_ls_counts_by_method_and_error_and_lists_messages(board: Board) -> None:
    board.park(b"1", b"2")
    board.park(b"3", error="KeyError")
    done = board.run("ls", board.source, "--messages")
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{board.parked}: 3 messages"
    assert lines[1].split() == ["COUNT", "ERROR", "METHOD", "PARKED", "FIRST", "ID", "REASON"]
    assert lines[3].split()[:3] == ["2", "ValueError", "mailer.send"]
    assert lines[3].endswith("ValueError: no luck with b'1'")
    assert lines[4].split()[:3] == ["1", "KeyError", "mailer.send"]
    assert lines[6].split() == ["POSITION", "ID", "PARKED", "BYTES", "METHOD", "REASON"]
    assert [line.split()[0] for line in lines[8:]] == ["1", "2", "3"]
    assert board.bodies(board.parked) == [b"1", b"2", b"3"]


def test_ls_for_programs_says_that_it_may_be_incomplete(board: Board) -> None:
    board.park(b"1")
    named = json.loads(board.run("ls", board.source, "--json").stdout)
    assert named["incomplete"] == ""
    (queue,) = named["queues"]
    assert (queue["queue"], queue["messages"], queue["read"]) == (board.parked, 1, 1)
    assert queue["groups"][0]["error"] == "ValueError"
    pattern = f"{board.source}*"
    found = json.loads(board.run("ls", pattern, "--json", "--wait", "0.1").stdout)
    assert "--management URL" in found["incomplete"]
    plain = board.run("ls", pattern, "--wait", "0.1")
    assert plain.stdout == "no parked messages\n"
    assert plain.stderr.startswith("this may be incomplete: ")


def test_ls_counts_without_reading(board: Board) -> None:
    board.park(b"1", b"2")
    done = board.run("ls", board.source, "--count")
    assert done.stdout == f"{board.parked}: 2 messages\n"
    first = board.do(lambda yard: yard.all(yard.parked))[0]
    assert not first.redelivered


def test_a_queue_that_cannot_be_read_does_not_end_the_list(board: Board) -> None:
    other = Board(board.uri)
    try:
        board.park(b"1", b"2")
        other.park(b"3")

        async def listed(yard: Yard) -> Done:
            alone = {"queue": board.parked, "exclusive": True}
            async with aio_pika_consumer(board.uri, **alone):
                return await asyncio.to_thread(board.run, "ls", board.source, other.source)

        done = board.do(listed)
        assert done.code == 1
        assert f"{other.parked}: 1 message\n" in done.stdout
        assert "another consumer has it alone" in done.stderr
    finally:
        other.close()


def test_a_queue_that_cannot_be_read_does_not_end_a_replay_of_several(board: Board) -> None:
    other = Board(board.uri)
    try:
        for each in (board, other):
            each.park(b"1", b"2")  # the other consumer holds one
        alone, free = sorted((board, other), key=lambda each: each.parked)
        page = {"page_count": 1, "items": [{"name": each.parked} for each in (board, other)]}

        async def replayed(yard: Yard) -> Done:
            words = ("replay", "*", "--all", "--management", url)
            async with aio_pika_consumer(board.uri, queue=alone.parked, exclusive=True):
                return await asyncio.to_thread(board.run, *words)

        with fake_api({"queues/%2F": page}) as url:
            done = board.do(replayed)
        assert done.code == 1
        assert f"{free.parked}: 2 of 2 messages replayed\n" in done.stdout
        assert "the rest was not tried: " in done.stderr
        assert "another consumer has it alone" in done.stderr
        assert free.bodies(free.source) == [b"1", b"2"]
    finally:
        other.close()


def test_a_name_without_a_parked_queue_is_a_note_of_ls_and_an_error_of_the_others(
    board: Board,
) -> None:
    name = f"{board.source}.nothing"
    done = board.run("ls", name)
    assert (done.code, done.stdout) == (0, "no parked messages\n")
    assert done.stderr == f"no queue {name}.parked: nothing was parked there\n"
    for action in ("show", "purge", "replay"):
        words = [name] if action == "show" else [name, "--all", "--yes"]
        failed = board.run(action, *words)
        assert failed.code == 2
        assert failed.error.startswith(f"there is no parked queue {name!r}")


def test_show_has_the_whole_message_with_secrets_masked(board: Board) -> None:
    body = json.dumps({"card": "4000-1234", "token": "t", "items": [1, 2]}).encode()
    board.park(
        body,
        headers={"nameko.auth_token": "t", "mine": "x\ny"},
        sensitive=[("card",)],
        type="order",
    )
    done = board.run("show", board.source)
    assert done.code == 0
    assert "4000-1234" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{board.parked}: message 1 of 1, id ")
    for line in (
        "method    mailer.send",
        f"queue     {board.source}",
        "sent to   exchange 'tests.events', key 'sent'",
        "  type              order",
        '  "card": "***",',
        '  "token": "***",',
        "  in send",
    ):
        assert line in lines or f"  {line}" in lines, line
    assert "  mine" in done.stdout
    assert "x\\ny" in done.stdout
    shown = json.loads(board.run("show", board.source, "1", "--json").stdout)
    assert shown["body"] == {"card": "***", "token": "***", "items": [1, 2]}
    assert shown["headers"]["nameko.auth_token"] == "***"
    assert shown["exchange"] == "tests.events"
    raw = board.run("show", board.source, "1", "--body")
    assert raw.stdout.encode() == body


def test_replay_reports_and_the_exit_code_says_whether_all_went(board: Board) -> None:
    board.park(b"1", b"2")
    dry = board.run("replay", board.source, "--all", "--dry-run")
    assert (dry.code, dry.stdout, dry.stderr) == (
        0,
        f"{board.parked}: 2 of 2 messages would be replayed\n  2 to queue {board.source}\n",
        "",
    )
    done = board.run("replay", board.source, "1", "7")
    assert done.code == 1
    assert done.stdout.startswith(f"{board.parked}: 1 of 1 message replayed\n")
    assert done.stderr.startswith("no message 7: ")
    whole = board.run("replay", board.parked, "--all", "--json")
    assert whole.code == 0
    assert [each["done"] for each in json.loads(whole.stdout)] == [1]
    assert board.bodies(board.source) == [b"1", b"2"]


def test_replay_and_purge_want_to_know_which_messages(board: Board) -> None:
    for action in ("replay", "purge"):
        assert board.run(action, board.source).error.startswith("say which messages: ")
        both = board.run(action, board.source, "1", "--all")
        assert both.error.startswith("--all selects all messages")


def test_purge_asks_first(board: Board) -> None:
    board.park(b"1", b"2", b"3")
    asked = board.run("purge", board.source, "--all")
    assert asked.code == 2
    assert asked.error.startswith(f"Delete all 3 messages in {board.parked}? Nobody can be asked")
    dry = board.run("purge", board.source, "--all", "--dry-run")
    assert (dry.code, dry.stderr) == (0, "")
    assert len(board.bodies(board.parked)) == 3
    done = board.run("purge", board.source, "2", "--yes")
    assert done.stdout == f"{board.parked}: 1 of 1 message deleted\n"
    assert board.bodies(board.parked) == [b"1", b"3"]


def test_all_queues_are_replayed_and_the_management_api_lists_them(board: Board) -> None:
    other = Board(board.uri)
    try:
        board.park(b"1", b"2")
        other.park(b"3")
        names = ("not parked", board.source, board.parked, other.parked, "gone.parked")
        page = {"page_count": 1, "items": [{"name": name} for name in names]}
        with fake_api({"queues/%2F": page}) as url:
            listed = json.loads(board.run("ls", "--management", url, "--json").stdout)
            assert listed["incomplete"] == ""
            found = {queue["queue"]: queue["messages"] for queue in listed["queues"]}
            assert found == {board.parked: 2, other.parked: 1}
            several = board.run("show", "*", "--management", url).error
            assert "fits several: name one of " in several
            assert "fits several" in board.run("replay", "*", "1", "--management", url).error
            done = board.run("replay", "*", "--all", "--management", url)
        assert done.code == 0
        assert f"{board.parked}: 2 of 2 messages replayed" in done.stdout
        assert f"{other.parked}: 1 of 1 message replayed" in done.stdout
        assert (board.bodies(board.source), other.bodies(other.source)) == ([b"1", b"2"], [b"3"])
    finally:
        other.close()


@pytest.mark.parametrize("action", ["purge", "replay"])
def test_a_dry_run_asks_too_where_each_look_counts(
    action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = ParkedQueue("shop.parked", 1, cost="Each look counts.")
    monkeypatch.setattr(parked_queues, "find_some", lambda *arguments, one: [queue])
    done = invoke("parked", action, "shop", "--all", "--dry-run", "--broker", "amqp://127.0.0.1:1/")
    assert done.code == 2
    assert done.error.startswith("Each look counts. Go on? Nobody can be asked here")


def test_memory_is_refused_because_nobody_else_can_reach_it() -> None:
    done = invoke("parked", "ls", "--broker", "memory://")
    assert done.code == 2
    assert "`aiorpc parked ls` finds no" in done.error


def test_a_killed_replay_loses_nothing_and_doubles_only_what_was_on_its_way(
    board: Board, tmp_path: Path
) -> None:
    bodies = [b"%d " % number + b"x" * 20_000 for number in range(1500)]
    board.park(*bodies)

    async def until_it_has_begun(yard: Yard) -> None:
        async with asyncio.timeout(20):
            while await yard.count(yard.source) < 150:
                await asyncio.sleep(0)

    words = ("parked", "replay", board.source, "--all", "--broker", board.uri)
    with Started(*words, cwd=tmp_path) as replay:
        board.do(until_it_has_begun)
        replay.signal(signal.SIGKILL)
        assert replay.ends() == -signal.SIGKILL

    async def settled(yard: Yard) -> tuple[Counter[bytes], int]:
        async with asyncio.timeout(20):
            while (ledger := await yard.ledger()).total() < len(bodies):
                await asyncio.sleep(0.05)  # until the broker has noticed the end
        return ledger, await yard.count(yard.parked)

    ledger, left = board.do(settled)
    assert 0 < left < len(bodies)
    assert set(ledger) == set(bodies)
    assert sum(ledger.values()) - len(bodies) <= AT_ONCE
    assert board.run("replay", board.source, "--all").code == 0
    assert set(board.bodies(board.source)) == set(bodies)


@pytest.mark.parametrize("action", ACTIONS)
def test_help_of_each_action_has_examples(action: str) -> None:
    done = invoke("parked", action, "--help")
    assert done.code == 0
    assert f"  $ aiorpc parked {action} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_an_action_is_completed_and_a_wrong_one_is_named() -> None:
    assert set(complete("aiorpc parked ")) >= {*ACTIONS, "--help"}
    assert complete("aiorpc parked replay --ed") == ["--edit"]
    assert "'replay'" in invoke("parked", "repaly").error
    assert invoke("parked").error.startswith("say what to do: aiorpc parked ls | show")


# On a terminal


@contextmanager
def on_terminal(board: Board, *words: str, cwd: Path, **env: str) -> Iterator[Terminal]:
    words = ("parked", *words, "--broker", board.uri)
    with closing(Terminal(*words, cwd=cwd, env=env)) as terminal:
        yield terminal


def test_purge_asks_on_a_terminal_and_no_is_the_default(board: Board, tmp_path: Path) -> None:
    board.park(b"1", b"2")
    for typed, printed, left in (
        (b"\n", "nothing is deleted", 2),
        (b"y\n", "2 of 2 messages deleted", 0),
    ):
        with on_terminal(board, "purge", board.source, "--all", cwd=tmp_path) as terminal:
            terminal.reads_until(f"Delete all 2 messages in {board.parked}? [y/N] ")
            terminal.sends(typed)
            terminal.reads_until(printed)
            assert terminal.ends() == 0
        assert len(board.bodies(board.parked)) == left


def test_edit_opens_the_body_and_sends_what_was_written(board: Board, tmp_path: Path) -> None:
    board.park(b'{"n":1}')
    editor = tmp_path / "editor.py"
    # The first time it breaks the JSON, the second time it writes what it should be.
    editor.write_text(
        "import pathlib, sys\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "text = file.read_text()\n"
        """file.write_text('{"n": 2}\\n' if text == '{broken' else '{broken')\n"""
        """assert text in ('{broken', '{\\n  "n": 1\\n}'), text\n"""
    )
    env = {"EDITOR": f"{sys.executable} {editor}", "VISUAL": ""}
    words = ("replay", board.source, "1", "--edit")
    with on_terminal(board, *words, cwd=tmp_path, **env) as terminal:
        terminal.reads_until("Edit it again? [Y/n] ")
        terminal.sends(b"\n")
        terminal.reads_until("1 of 1 message replayed")
        assert terminal.ends() == 0
    assert board.bodies(board.source) == [b'{"n": 2}\n']
    assert board.bodies(board.parked) == []


def test_an_editor_that_fails_leaves_the_message_where_it_is(board: Board, tmp_path: Path) -> None:
    board.park(b"1")
    words = ("replay", board.source, "1", "--edit")
    for editor, printed in (
        ("false", "false ended with code 1"),
        ("rm", "it was not edited, and is left where it is"),
        ("/no/editor", "Set $EDITOR"),
    ):
        with on_terminal(board, *words, cwd=tmp_path, EDITOR=editor, VISUAL="") as terminal:
            terminal.reads_until(printed)
            assert terminal.ends() != 0
        assert board.bodies(board.parked) == [b"1"]
    assert board.run("replay", board.source, "1", "--edit").error.startswith(
        "--edit needs a terminal: "
    )


def test_ctrl_c_ends_after_what_is_on_its_way(board: Board, tmp_path: Path) -> None:
    bodies = [b"%d" % number for number in range(1500)]
    board.park(*bodies)
    words = ("replay", board.source, "--all")
    with on_terminal(board, *words, cwd=tmp_path, TERM="xterm") as terminal:
        terminal.reads_until(" of 1,500 read")
        terminal.presses_ctrl_c("the rest was not tried: the command was interrupted")
        assert terminal.ends() == 130
    replayed, left = board.bodies(board.source), board.bodies(board.parked)
    assert left
    assert replayed + left == bodies

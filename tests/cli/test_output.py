"""What commands print: names and texts of a peer cannot control the terminal."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable

import pytest

from aiorpc import AioRpcError, MethodNotFound, RemoteError
from aiorpc.cli.calls import Wanted, explain
from aiorpc.cli.commands.ls import Listed, print_table
from aiorpc.cli.output import print_error, print_json, print_note, print_traceback

EVIL = "one\ntwo\x1b[2J\x07\x9b31m\u2028[red]"
ESCAPED = r"two\x1b[2J\x07\x9b31m"
CONTROLS = set("\x1b\x07\x9b\u2028")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")


def shown(print_it: Callable[[], object]) -> str:
    """What *print_it* prints on a terminal."""
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal):
        print_it()
    text = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())  # without colours
    assert not CONTROLS & set(text)
    return text


@pytest.mark.parametrize("error", [RemoteError(EVIL, EVIL), MethodNotFound(EVIL)])
def test_the_error_of_a_call_is_one_line(error: AioRpcError) -> None:
    text = shown(lambda: explain(Wanted("shop", EVIL), error, debug=False))
    assert ESCAPED in text
    assert text.count("\n") == 1


def test_errors_and_notes_are_one_line_and_cut() -> None:
    assert shown(lambda: print_error(EVIL)) == f"error: one {ESCAPED} [red]\n"
    assert shown(lambda: print_note(EVIL)) == rf"one\n{ESCAPED}\u2028[red]" + "\n"
    assert shown(lambda: print_note("x" * 3000)).endswith("... (3000 characters)\n")


def test_a_traceback_shows_the_text_of_its_error_indented() -> None:
    assert shown(lambda: print_traceback(RemoteError("E", EVIL))).splitlines() == [
        "aiorpc.exceptions.RemoteError: E one",
        f"    | {ESCAPED}",
        "    | [red]",
    ]


def test_a_result_stays_json_on_a_terminal() -> None:
    text = shown(lambda: print_json({EVIL: ["Ada ∞", EVIL]}))
    assert json.loads(text) == {EVIL: ["Ada ∞", EVIL]}
    assert "Ada ∞" in text


def test_names_in_a_table_are_escaped_and_no_markup() -> None:
    row = Listed(EVIL, f"rpc-{EVIL}", 1, 0, methods=[EVIL], processes=[EVIL])
    text = "".join(shown(lambda: print_table([row])).split())
    assert text.count(r"\x1b[2J") == 4
    assert text.count("[red]") == 4

"""The grammar of the commands: where options may stand, and what a mistake prints."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from aiorpc.cli.app import parser_of
from aiorpc.cli.parser import number
from tests.support.command_line import invoke


@pytest.mark.parametrize(
    ("line", "modules", "config", "define", "broker"),
    [
        ("service", ["service"], None, [], None),
        ("one two:Two --broker memory://", ["one", "two:Two"], None, [], "memory://"),
        ("--broker memory:// one", ["one"], None, [], "memory://"),
        ("one -b memory:// two", ["one", "two"], None, [], "memory://"),
        ("-cconfig.yaml -- one", ["one"], "config.yaml", [], None),
        (
            "--config=config.yaml one --define=a=1 -d b=[2,3] two --define c",
            ["one", "two"],
            "config.yaml",
            ["a=1", "b=[2,3]", "c"],
            None,
        ),
        (
            "-c first.yaml -b memory:// one -c second.yaml --broker=amqp://host/?heartbeat=5",
            ["one"],
            "second.yaml",
            [],
            "amqp://host/?heartbeat=5",
        ),
    ],
)
def test_options_may_stand_anywhere_and_the_last_one_wins(
    line: str, modules: list[str], config: str | None, define: list[str], broker: str | None
) -> None:
    found = parser_of("run").read(line.split())
    assert found.modules == modules
    assert found.config == config
    assert (found.define, found.broker) == (define, broker)


def test_arguments_of_a_call_may_stand_behind_its_options() -> None:
    found = parser_of("call").read(["s.m", "--timeout", "3", "[1]", "-b", "memory://", '{"a": 1}'])
    assert (found.args, found.kwargs, found.timeout) == ("[1]", '{"a": 1}', 3)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("run one --nosuch", "there is no option --nosuch."),
        ("run one --brokr memory://", "no option --brokr (did you mean '--broker'?)"),
        ("run one --conf config.yaml", "no option --conf (did you mean '--config'?)"),
        ("run one --broker", "--broker/-b: expected one argument"),
        ("run one --broker -c", "--broker/-b: expected one argument"),
        ("--nosuch run one", "there is no option --nosuch."),
        ("new one two", "there is no argument two."),
        ("call s.m [] {} more", "there is no argument more."),
    ],
)
def test_a_mistake_is_one_line_that_names_the_help(line: str, text: str) -> None:
    done = invoke(*line.split())
    assert done.code == 2
    assert text in done.error
    assert " --help'." in done.error


def test_a_number_has_bounds_and_is_finite() -> None:
    assert number(0.5, 3)("0.5") == 0.5
    assert number(0.5)("1e9") == 1e9
    for text in ("0.4", "4", "inf", "-inf", "nan", "soon", ""):
        with pytest.raises(ArgumentTypeError):
            number(0.5, 3)(text)

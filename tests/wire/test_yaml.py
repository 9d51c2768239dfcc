"""The bounds of YAML bodies."""

from __future__ import annotations

from typing import Any

import pytest

from aiorpc.exceptions import MalformedRequest
from aiorpc.wire.serializers import yaml
from aiorpc.wire.yaml import MAX_VALUES

YAML = yaml()
LAUGHS = b"\n".join(
    b"- &a%d [%s]" % (level, b", ".join([b"*a%d" % (level - 1) if level else b"x"] * 10))
    for level in range(6)
)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"[&a 1, *a, *a]", [1, 1, 1]),
        (b"{a: &a {x: 1}, b: {<<: *a, y: 2}}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        (b"1:30", 90),
        (b"[" + b"x," * (MAX_VALUES - 1) + b"]", ["x"] * (MAX_VALUES - 1)),
        (b'"' + b"x" * 1_000_000 + b'"', "x" * 1_000_000),
    ],
    ids=range(5),
)
def test_a_body_within_the_bounds_is_read(data: bytes, value: Any) -> None:
    assert YAML.decode(data) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" + b"x," * MAX_VALUES + b"]", "more than 50000 values: send fewer, or send JSON"),
        (LAUGHS, "more than 50000 values"),
        (b"a: &a {x: 1}\nb: {<<: [" + b"*a," * MAX_VALUES + b"]}", "more than 50000 values"),
        (b"&a [1, *a]", "the anchor 'a' contains itself"),
        (b":".join([b"1"] * 100_000), "a number has 199999 characters, more than 4300"),
        (b":".join([b"1"] * 100_000) + b".5", "a number has 200001 characters"),
        (b"[" * 900 + b"]" * 900, "nested too deep"),
        (b"- " * 900 + b"x", "nested too deep"),
        (b"!!python/name:os.system", "could not determine a constructor"),
    ],
    ids=range(9),
)
def test_a_body_that_would_cost_too_much_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedRequest, match=reason):
        YAML.decode(data)

"""Bodies as people read them: decoded where possible, and masked."""

from __future__ import annotations

import bz2
import json
import zlib
from typing import Any

import msgspec
import pytest

from aiorpc.config import resolve
from aiorpc.exceptions import MalformedRequest
from aiorpc.parked.bodies import Bodies, masked, without_compression
from aiorpc.wire.message import Message

BODIES = Bodies(resolve({"ACCEPT": ["json", "msgpack"]}))
GZIP = {"compression": "application/x-gzip"}


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (Message(body=b'{"a": 1}'), {"a": 1}),
        (Message(body=b"null"), None),
        (Message(body=b'[{"a": 1}]', content_type=None, content_encoding=None), [{"a": 1}]),
        (Message(body=zlib.compress(b"[1]"), headers=GZIP), [1]),
        (Message(body=bz2.compress(b"[1]"), headers={"compression": "bzip2"}), [1]),
        (
            Message(
                body=msgspec.msgpack.encode([1]),
                content_type="application/x-msgpack",
                content_encoding="binary",
            ),
            [1],
        ),
        (Message(body='"é"'.encode("latin-1"), content_encoding="latin-1"), "é"),
    ],
)
def test_a_body_is_decoded_by_its_content_type(message: Message, value: Any) -> None:
    body = BODIES.shown(message, [])
    assert (body.value, body.trouble) == (value, "")


@pytest.mark.parametrize(
    ("message", "text", "trouble"),
    [
        (Message(body=b"{broken"), "{broken", "cannot be read as JSON"),
        (Message(body=b"hello", content_type=None), "hello", "no content type"),
        (Message(body=b"a: 1", content_type="application/x-yaml"), "a: 1", "is not accepted"),
        (Message(body=b"\x80\x04", content_type="application/x-python-serialize"), None, "not acc"),
        (Message(body=b"\xff\xfe", content_type=None), None, "no content type"),
        (Message(body=b""), "", "JSON"),
        (Message(body=b"no zlib", headers=GZIP), "no zlib", "not valid gzip"),
        (Message(body=b"[" * 100_000), "[" * 100_000, ""),
    ],
)
def test_a_body_that_cannot_be_decoded_says_why(
    message: Message, text: str | None, trouble: str
) -> None:
    body = BODIES.shown(message, [])
    assert body.value is msgspec.UNSET
    assert body.text == text
    assert trouble in body.trouble
    assert body.trouble


def test_what_is_sensitive_is_masked_and_a_secret_by_its_name_too() -> None:
    call = {"args": [{"card": "4000"}, "x"], "kwargs": {"pin": "1234", "api_key": "k", "n": 1}}
    message = Message(body=json.dumps(call).encode())
    body = BODIES.shown(message, [["args", "0", "card"], ["kwargs", "pin"], ["args", "9"], ["no"]])
    assert body.value == {
        "args": [{"card": "***"}, "x"],
        "kwargs": {"pin": "***", "api_key": "***", "n": 1},
    }


def test_a_sensitive_body_that_cannot_be_decoded_is_not_shown() -> None:
    body = BODIES.shown(Message(body=b"{card 4000"), [["card"]])
    assert body.text == "***"


@pytest.mark.parametrize(
    ("value", "paths", "expected"),
    [
        ({"a": {"b": 1}}, [("a", "b")], {"a": {"b": "***"}}),
        ({"a": [1, 2]}, [("a", "1")], {"a": [1, "***"]}),
        ({1: "x"}, [("1",)], {1: "***"}),
        ("text", [()], "***"),
        ("text", [("part",)], "***"),
        (None, [("part",)], None),
    ],
)
def test_a_path_leads_to_what_is_masked(value: Any, paths: Any, expected: Any) -> None:
    assert masked(value, paths) == expected


def test_compression_is_undone_for_an_editor() -> None:
    message = Message(body=zlib.compress(b"[1]"), headers={**GZIP, "mine": 1})
    plain = without_compression(message)
    assert (plain.body, plain.headers) == (b"[1]", {"mine": 1})
    with pytest.raises(MalformedRequest):
        without_compression(Message(body=b"x", headers=GZIP))

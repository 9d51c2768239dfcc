"""Documents that are packed for a message."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import msgspec
import pytest

from aiorpc import ConfigurationError
from aiorpc.contracts.packing import LARGEST, PLAIN, packed, unpacked
from aiorpc.contracts.reading import contract_from


def test_a_large_document_is_packed_and_a_small_one_is_not() -> None:
    small = {"a": "b" * 100}
    assert packed(small) is small
    large: Any = {"a": ["b" * 100] * 1000}
    text = packed(large)
    assert len(text) < PLAIN
    assert unpacked(text) == large


def text_of(body: bytes) -> str:
    return base64.b64encode(body).decode()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("no base64!", "base64"),
        (text_of(b"no zlib"), "header"),
        (text_of(zlib.compress(b"x" * 1000)[:-5]), "cut off"),
        (text_of(zlib.compress(b"0" * (LARGEST + 1))), "more than 4,194,304 bytes"),
        (text_of(zlib.compress(b"{")), "truncated"),
        (text_of(zlib.compress(msgspec.json.encode([1]))), "is not a contract"),
    ],
)
def test_a_damaged_text_is_an_error(text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match="(?i)" + fault):
        contract_from(text, "the answer")

"""Bodies before they are decoded: charset and compression."""

from __future__ import annotations

import bz2
import gc
import gzip
import zlib
from typing import Any

import msgspec
import pytest

from aiorpc.config import resolve
from aiorpc.exceptions import MalformedRequest
from aiorpc.wire.content import as_utf8, decompress
from aiorpc.wire.message import Message
from aiorpc.wire.protocol import Wire
from aiorpc.wire.serializers import JSON


def test_a_body_in_another_charset_is_read_as_utf8():
    assert as_utf8('"é"'.encode("latin-1"), "latin-1") == '"é"'.encode()
    assert as_utf8("é".encode("utf-16"), "UTF-16") == "é".encode()


@pytest.mark.parametrize("encoding", [None, "", "utf-8", "UTF-8", "binary", "hex", "no-such", "\0"])
def test_a_body_without_another_charset_is_not_changed(encoding):
    assert as_utf8(b"\xff", encoding) == b"\xff"


def test_a_body_that_is_not_in_its_charset_is_refused():
    with pytest.raises(MalformedRequest, match="utf-16"):
        as_utf8(b"\x00\xd8", "utf-16-le")


@pytest.mark.parametrize(
    ("header", "packed"),
    [
        ("application/x-gzip", zlib.compress(b"x" * 1000)),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)),
        ("application/x-bz2", bz2.compress(b"x" * 1000)),
    ],
)
def test_bodies_that_kombu_compressed_are_decompressed(header, packed):
    assert decompress(packed, header, limit=1000) == b"x" * 1000
    with pytest.raises(MalformedRequest, match="larger than 999 bytes"):
        decompress(packed, header, limit=999)
    with pytest.raises(MalformedRequest, match="is incomplete"):
        decompress(packed[:-1], header, limit=1000)
    with pytest.raises(MalformedRequest, match="is not valid"):
        decompress(b"nonsense" + packed, header, limit=1000)


def test_a_zip_bomb_is_not_unpacked(monkeypatch):
    bomb = zlib.compress(b"\0" * 50_000_000)
    unpacked: list[int] = []

    class Counting:
        def __init__(self, **options: Any) -> None:
            self.inflater = real(**options)

        def decompress(self, data: bytes, max_length: int) -> bytes:
            plain: bytes = self.inflater.decompress(data, max_length)
            unpacked.append(len(plain))
            return plain

    real = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", Counting)
    with pytest.raises(MalformedRequest, match="larger than 1000 bytes"):
        decompress(bomb, "application/x-gzip", limit=1000)
    assert unpacked == [1001]


@pytest.mark.parametrize("header", ["application/zstd", "", 5, None, ["gzip"]])
def test_an_unknown_compression_is_refused(header):
    with pytest.raises(MalformedRequest, match=r"unknown compression.*application/x-gzip"):
        decompress(b"x", header, limit=1000)


@pytest.mark.parametrize(
    ("header", "pack"), [("application/x-gzip", zlib.compress), ("application/x-bz2", bz2.compress)]
)
def test_a_small_body_that_decompresses_to_very_much_is_refused(header, pack):
    packed = pack(b"x" * 2_000_000)
    with pytest.raises(MalformedRequest, match=r"over 100 times.*without compression"):
        decompress(packed, header, limit=1 << 30)
    usual = pack(b"".join(b"%x" % (number * number) for number in range(300_000)))
    assert len(decompress(usual, header, limit=1 << 30)) > 2_000_000


def test_what_a_thread_decompressed_is_decoded_without_decompressing_again(monkeypatch):
    content = Wire.of(resolve({"AMQP_URI": "memory://"})).content
    good = Message(body=zlib.compress(b'"x"'), headers={"compression": "application/x-gzip"})
    bad = Message(body=b"nonsense", headers={"compression": "application/x-gzip"})
    content.decompress(good)
    content.decompress(bad)
    monkeypatch.setattr("aiorpc.wire.content.decompress", None)
    assert content.decode(good) == "x"
    with pytest.raises(MalformedRequest, match="is not valid gzip data"):
        content.decode(bad)


def test_the_collector_pauses_while_a_large_body_is_decoded():
    content = Wire.of(resolve({"AMQP_URI": "memory://"})).content
    seen = []
    watching = msgspec.structs.replace(JSON, decode=lambda data: seen.append(gc.isenabled()))
    for size in (1000, 1_000_000):
        content.decode(Message(body=b" " * size), serializer=watching)
    assert seen == [True, False]
    assert gc.isenabled()

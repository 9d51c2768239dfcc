"""Serializers: what each writes and reads, and which ones a configuration uses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from aiorpc.config import from_mapping
from aiorpc.exceptions import ConfigurationError, MalformedRequest, UnserializableValueError
from aiorpc.wire.serializers import (
    JSON,
    MSGPACK,
    PLAIN_JSON,
    RAW,
    SerializerSet,
    yaml,
)

YAML = yaml()
BUILT_IN = [JSON, PLAIN_JSON, MSGPACK, YAML]


class Vat(Decimal, Enum):
    FULL = Decimal("0.2")


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    x: int
    y: int


class Text(str):
    pass


@dataclass
class Item:
    sku: UUID
    colour: Colour


class Custom:
    def __json__(self) -> Any:
        return {"custom": [1]}


class Opaque:
    pass


def by_name(serializer):
    return serializer.name


@pytest.mark.parametrize("serializer", BUILT_IN, ids=by_name)
def test_every_serializer_reads_the_plain_data_that_it_writes(serializer):
    value = {"args": [1, 2.5, "é", None, True, [], {}], "kwargs": {"x": [{"y": "z"}]}}
    assert serializer.decode(serializer.encode(value)) == value


@pytest.mark.parametrize("serializer", BUILT_IN, ids=by_name)
def test_every_serializer_sends_objects_as_their_fields(serializer):
    value = [Colour.RED, Pair(1, 2), Text("t"), Custom(), (1,)]
    assert serializer.decode(serializer.encode(value)) == ["red", [1, 2], "t", {"custom": [1]}, [1]]
    decoded = serializer.decode(serializer.encode(Item(UUID(int=5), Colour.RED)))
    assert UUID(str(decoded["sku"])) == UUID(int=5)
    assert decoded["colour"] == "red"


@pytest.mark.parametrize("serializer", [MSGPACK, YAML], ids=by_name)
def test_types_that_a_format_lacks_are_sent_as_text(serializer):
    value = [Decimal("1.10"), UUID(int=5), time(1, 2, 3)]
    texts = ["1.10", "00000000-0000-0000-0000-000000000005", "01:02:03"]
    assert serializer.decode(serializer.encode(value)) == texts


def test_yaml_and_msgpack_keep_the_types_that_they_have():
    value = {"day": date(2020, 1, 2), "at": datetime(2020, 1, 2, 3, 4, 5), "blob": b"\xff"}
    assert YAML.decode(YAML.encode(value)) == value
    assert MSGPACK.decode(MSGPACK.encode({"blob": b"\xff"})) == {"blob": b"\xff"}


def test_yaml_is_the_same_as_namekos():
    assert YAML.encode({"args": [1], "kwargs": {}}) == b"args:\n- 1\nkwargs: {}\n"
    assert YAML.encode({"error": None, "result": 1}) == b"error: null\nresult: 1\n"


def test_content_types_are_the_same_as_kombus():
    assert [(s.name, s.content_type, s.content_encoding) for s in BUILT_IN] == [
        ("json", "application/json", "utf-8"),
        ("json", "application/json", "utf-8"),
        ("msgpack", "application/x-msgpack", "binary"),
        ("yaml", "application/x-yaml", "utf-8"),
    ]


def cyclic() -> Any:
    value: list[Any] = []
    value.append({"self": value, "opaque": Opaque()})
    return value


@pytest.mark.parametrize("serializer", BUILT_IN, ids=by_name)
@pytest.mark.parametrize("value", [Opaque(), {"result": Opaque()}, cyclic()], ids=type)
def test_encode_raises_unserializable_and_nothing_else(serializer, value):
    with pytest.raises(UnserializableValueError, match=r"."):
        serializer.encode(value)


def test_msgpack_refuses_an_int_of_more_than_64_bits():
    with pytest.raises(UnserializableValueError, match=r"dict as msgpack.*2\*\*64"):
        MSGPACK.encode({"result": 2**70})


@pytest.mark.parametrize(
    ("serializer", "data"),
    [
        (JSON, b""),
        (JSON, b"{"),
        (JSON, b"[" * 100_000),
        (JSON, b"\xff"),
        (MSGPACK, b""),
        (MSGPACK, b"\xc1"),
        (MSGPACK, b"\x91" * 100_000),
        (MSGPACK, b"\xa1\xff"),
        (YAML, b"{"),
        (YAML, b"\xff\xfe\xff"),
        (YAML, b"[" * 1_000),
        (YAML, b"!!python/object/apply:os.getcwd []"),
        (YAML, b"2020-13-45"),
        (YAML, b"? [a]\n: b"),
    ],
)
def test_decode_raises_malformed_request_and_nothing_else(serializer, data):
    with pytest.raises(MalformedRequest, match=f"cannot be read as (?i:{serializer.name})"):
        serializer.decode(data)


def test_a_raw_payload_is_text_if_it_is_utf8():
    assert RAW.decode("é".encode()) == "é"
    assert RAW.decode(b"\xff") == b"\xff"


# The settings


def serializers(**config):
    return SerializerSet.of(from_mapping(config, "config.yaml"))


def test_the_default_serializer_is_json():
    chosen = serializers()
    assert chosen.default is JSON
    assert chosen["application/json"] is JSON


def test_json_types_plain_chooses_plain_json():
    assert serializers(JSON_TYPES="plain").default is PLAIN_JSON


def test_only_the_chosen_serializer_is_accepted_by_default():
    chosen = serializers(serializer="msgpack")
    assert chosen.default is MSGPACK
    with pytest.raises(MalformedRequest):
        chosen["application/json"]


def test_accept_takes_names_and_content_types():
    chosen = serializers(ACCEPT=["json", "application/x-msgpack", "yaml"])
    assert chosen["application/x-msgpack"] is MSGPACK
    assert chosen["application/x-yaml"].name == "yaml"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_parameters_and_case_of_a_content_type_do_not_matter(content_type):
    assert serializers()[content_type] is JSON


@pytest.mark.parametrize(
    "content_type", ["application/vnd.partner.v1+json", "Application/Problem+JSON; charset=utf-8"]
)
def test_a_content_type_that_ends_in_plus_json_is_json(content_type):
    assert serializers()[content_type] is JSON
    assert serializers().for_payload(content_type) is JSON
    with pytest.raises(MalformedRequest, match="is not accepted here"):
        serializers(serializer="msgpack")[content_type]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-python-serialize", "", None])
def test_the_error_for_a_content_type_says_which_are_accepted(content_type):
    chosen = serializers(ACCEPT=["json", "msgpack"])
    with pytest.raises(MalformedRequest) as caught:
        chosen[content_type]
    assert type(caught.value) is MalformedRequest, "subclasses do not cross the wire as themselves"
    assert (content_type or "no content type") in str(caught.value)
    assert "application/json, application/x-msgpack" in str(caught.value)


@pytest.mark.parametrize("content_type", [None, "", "application/data", "application/text"])
def test_payloads_without_a_format_stay_undecoded(content_type):
    assert serializers().for_payload(content_type) is RAW


def test_payloads_with_a_format_are_decoded():
    assert serializers().for_payload("application/json") is JSON
    with pytest.raises(MalformedRequest):
        serializers().for_payload("image/png")


@pytest.mark.parametrize(
    "config",
    [
        {"serializer": "pickle"},
        {"ACCEPT": ["json", "pickle"]},
        {"ACCEPT": ["application/x-python-serialize"]},
    ],
)
def test_pickle_is_refused_with_a_reason_and_a_remedy(config):
    with pytest.raises(ConfigurationError, match=r"config.yaml: .*pickle.*any code.*ACCEPT"):
        serializers(**config)


@pytest.mark.parametrize("config", [{"serializer": "jsn"}, {"ACCEPT": ["text/plain"]}])
def test_the_error_for_an_unknown_serializer_lists_the_known_ones(config):
    with pytest.raises(ConfigurationError, match=r"json, msgpack, yaml.*SERIALIZERS"):
        serializers(**config)


# Serializers of the user's own. As with kombu, a charset means str, `binary` means bytes.


def reversed_json(value: Any) -> str:
    return json.dumps(value)[::-1]


def parse_reversed(text: str) -> Any:
    return json.loads(text[::-1])


def to_bytes(value: Any) -> bytes:
    return bytes(value)


def from_bytes(data: bytes) -> Any:
    assert isinstance(data, bytes)
    return list(data)


def custom(**changes):
    options = {
        "encoder": f"{__name__}.reversed_json",
        "decoder": f"{__name__}.parse_reversed",
        "content_type": "application/x-rev",
        "content_encoding": "utf-8",
        **changes,
    }
    return serializers(SERIALIZERS={"rev": options}, serializer="rev").default


def test_a_custom_serializer_writes_and_reads_as_with_nameko():
    rev = custom()
    # Captured from Nameko with the same serializer.
    data = b'}}{ :"sgrawk" ,]1[ :"sgra"{'
    assert rev.encode({"args": [1], "kwargs": {}}) == data
    assert rev.decode(data) == {"args": [1], "kwargs": {}}
    assert (rev.name, rev.content_type, rev.content_encoding) == (
        "rev",
        "application/x-rev",
        "utf-8",
    )


def test_a_custom_serializer_may_use_another_charset():
    rev = custom(content_encoding="utf-16-le")
    assert rev.encode("x") == '"x"'.encode("utf-16-le")
    assert rev.decode('"x"'.encode("utf-16-le")) == "x"


def test_a_custom_serializer_may_be_binary():
    binary = custom(
        encoder=f"{__name__}.to_bytes", decoder=f"{__name__}.from_bytes", content_encoding="binary"
    )
    assert binary.encode([1, 255]) == b"\x01\xff"
    assert binary.decode(b"\x01\xff") == [1, 255]


def test_errors_of_a_custom_serializer_become_ours():
    rev = custom()
    with pytest.raises(UnserializableValueError, match="as rev"):
        rev.encode(Opaque())
    with pytest.raises(MalformedRequest, match="cannot be read as rev"):
        rev.decode(b"\xff")
    with pytest.raises(MalformedRequest, match="cannot be read as rev"):
        rev.decode(b"{")


def test_a_custom_serializer_is_accepted_by_its_content_type():
    options = {
        "encoder": f"{__name__}.reversed_json",
        "decoder": f"{__name__}.parse_reversed",
        "content_type": "application/x-rev",
    }
    chosen = serializers(SERIALIZERS={"rev": options}, ACCEPT=["json", "application/x-rev"])
    assert chosen.default is JSON
    assert chosen["application/x-rev"].name == "rev"


@pytest.mark.parametrize("path", ["no_such_module.encode", f"{__name__}.nothing", "encode", ""])
def test_a_path_that_cannot_be_imported_is_refused(path):
    with pytest.raises(ConfigurationError, match=r"SERIALIZERS.rev.encoder .*cannot be imported"):
        custom(encoder=path)


def test_an_encoding_that_is_not_a_charset_is_refused():
    with pytest.raises(ConfigurationError, match=r"SERIALIZERS.rev.content_encoding .*'hex'"):
        custom(content_encoding="hex")


@pytest.mark.parametrize("codec", [JSON, PLAIN_JSON], ids=["json", "plain"])
def test_an_enum_of_decimals_is_sent_as_its_value(codec: Any) -> None:
    assert codec.encode([Vat.FULL]) == codec.encode([Decimal("0.2")])

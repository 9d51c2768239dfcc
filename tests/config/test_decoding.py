"""Values and keys of a configuration: what is accepted, and how a mistake is named."""

from __future__ import annotations

import pytest

from aiorpc.config import (
    from_mapping,
    parse_address,
    parse_define,
)
from aiorpc.exceptions import ConfigurationError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_workers: 'ten'", "max_workers must be int >= 1, got str 'ten'"),
        (
            "MAX_MESSAGE_SIZE: 500",
            "MAX_MESSAGE_SIZE must be int >= 4096 (an error reply must fit) or null, got int 500",
        ),
        ("max_workers: 0", "max_workers must be int >= 1, got int 0"),
        ("max_workers: true", "max_workers must be int >= 1, got bool True"),
        ("max_workers: 1.5", "max_workers must be int >= 1, got float 1.5"),
        (
            "PREFETCH_COUNT: x",
            "PREFETCH_COUNT must be int >= 1 and <= 65535 or null, got str 'x'",
        ),
        ("HEARTBEAT: 70000", "HEARTBEAT must be int >= 0 and <= 65535 or null, got int 70000"),
        ("RPC_TIMEOUT: 0", "RPC_TIMEOUT must be number > 0 or null, got int 0"),
        ("RPC_TIMEOUT: .inf", "RPC_TIMEOUT must be number > 0 or null, got float inf"),
        ("RPC_TIMEOUT: .nan", "RPC_TIMEOUT must be number > 0 or null, got float nan"),
        ("CALL_PROFILE: quick", "CALL_PROFILE must be one of durable, fast, got str 'quick'"),
        ("CONFIRM_REPLIES: 1", "CONFIRM_REPLIES must be true or false, got int 1"),
        ("ACCEPT: json", "ACCEPT must be list of str or null, got str 'json'"),
        ("ACCEPT: [json, 3]", "ACCEPT[1] must be str, got int 3"),
        ("LOGGING: 3", "LOGGING must be mapping or null, got int"),
        ("SERIALIZERS: {x: {encoder: a.b}}", "SERIALIZERS['x'] lacks decoder, content_type"),
        ("SERIALIZERS: {x: {dekoder: a.b}}", "in SERIALIZERS['x']: did you mean decoder?"),
        ("AMQP_SSL: {ca_cert: x}", "unknown key 'ca_cert' in AMQP_SSL: did you mean ca_certs?"),
        ("AMQP_SSL: {zzz: x}", "unknown key 'zzz' in AMQP_SSL: known are ca_certs, "),
        ("AMQP_SSL: {cert_reqs: 7}", "AMQP_SSL.cert_reqs must be one of 0, 1, 2, CERT_NONE"),
        ("AMQP_SSL: yeah", "AMQP_SSL must be mapping with ca_certs, "),
        ("WEB_SERVER_ADDRESS: foo", "WEB_SERVER_ADDRESS must be [address:]port"),
        ("1: 2", "key 1 is int, but keys are strings"),
        ("DB_URIS: {b: 3}", "DB_URIS['b'] must be str, got int"),
    ],
)
def test_a_wrong_value_names_file_key_expectation_and_type(complaint, text, expected):
    complained = complaint(text)
    assert "config.yaml: " in complained
    assert expected in complained


@pytest.mark.parametrize(
    "text",
    [
        "AMQP_URI: [amqp://u:s3cret@h]",
        "AMQP_URI: amqp://u:s3cret#x@h/",
        "AMQP_URI: amqp://u:s3;cret@h/",
        "AMQP_URI: amqp://u:s3cret",
        "AMQP_URI: u:s3cret@h",
        "AMQP_URI: amqp://u:s3cret@h/?nonsense=1",
        "AMQP_URI: amqp://u:s3cret@[::1/",
        "DB_URIS: s3cret",
        "DB_URIS: {x: [s3cret]}",
        "DB_URI: [s3cret]",
        "max_workers: amqp://u:s3cret@h",
        "DB_PASSWORD: s3cret\nx: [",
        "DB_PASSWORD: [s3cret\ny: }",
        "DB_PASSWORD: ${PASS}",
    ],
)
def test_no_error_shows_a_password(complaint, text):
    complained = complaint(text, PASS="@s3cret")
    assert "config.yaml" in complained
    assert "s3" not in complained
    assert "cret" not in complained


def test_null_is_the_default_where_it_is_not_a_value(read):
    settings = read("max_workers:\nJSON_TYPES: null\nDB_URIS: null\n")
    assert settings.max_workers == 100
    assert settings.json_types == "typed"
    assert settings.db_uris == {}


def test_null_is_kept_where_it_is_a_value(read):
    settings = read("RPC_TIMEOUT: null\nHEARTBEAT: null\nMAX_MESSAGE_SIZE: null\n")
    assert settings.rpc_timeout is None
    assert settings.heartbeat is None
    assert settings.max_message_size is None


def test_an_unset_variable_does_not_lead_to_the_default_broker(complaint):
    text = complaint("AMQP_URI: ${RABBIT_URI}")
    assert "AMQP_URI must be str, got null" in text
    assert "not set in the environment, and without a default: RABBIT_URI" in text


@pytest.mark.parametrize(
    ("text", "complained"),
    [
        (
            "AMQP_URI: amqp://${RUSER}:${RPASS}@${RHOST:h}/",
            "AMQP_URI is incomplete: RPASS, RUSER",
        ),
        ("AMQP_URI: ${URI}", "AMQP_URI is incomplete: RHOST"),
        ('AMQP_URI: !raw_env_var "amqp://${RHOST}/"', "AMQP_URI is incomplete: RHOST"),
        ("DB_URI: postgresql://${RHOST}/x", "DB_URI is incomplete: RHOST"),
        ("DB_URIS:\n  x:Base: a://b\n  y:Base: a://${RHOST}", "DB_URIS['y:Base'] is inc"),
    ],
)
def test_an_unset_variable_in_a_url_does_not_lead_to_another(complaint, text, complained):
    said = complaint(text, URI="amqp://${RHOST}/", RVHOST="")
    said = said.replace("not set in the environment, and without a default: ", "")
    assert complained in said


def test_a_variable_that_is_empty_or_elsewhere_may_be_missing(read):
    settings = read("AMQP_URI: amqp://h/${VHOST}${NONE:}\nMINE: a${NOPE}b", VHOST="")
    assert settings.broker_urls[0].host == "h"
    assert settings.raw["MINE"] == "ab"


def test_a_define_whose_url_lacks_a_variable_is_refused():
    with pytest.raises(ConfigurationError, match="--define AMQP_URI: AMQP_URI is incomplete"):
        parse_define("AMQP_URI=amqp://${RHOST}/", {})


def test_prefetch_fits_the_16_bits_of_amqp():
    assert from_mapping({"max_workers": 100_000}).prefetch == 65535


def test_plain_off_is_the_word_although_yaml_reads_false(read):
    assert read("VALIDATE_ARGUMENTS: off").validate_arguments == "off"
    assert read("VALIDATE_ARGUMENTS: 'off'").validate_arguments == "off"
    assert read("VALIDATE_ARGUMENTS: on").validate_arguments == "strict"


def test_db_uri_is_one_url_or_several(read):
    assert read("DB_URI: sqlite://").db_uri == "sqlite://"
    assert read("DB_URI: {'x:Base': sqlite://}").db_uri == {"x:Base": "sqlite://"}


def test_whole_numbers_are_seconds_too():
    timeout = from_mapping({"RPC_TIMEOUT": 3}).rpc_timeout
    assert timeout == 3.0
    assert isinstance(timeout, float)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8000", ("0.0.0.0", 8000)),
        ("8000", ("", 8000)),
        (8000, ("", 8000)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_an_address_is_read_with_and_without_a_host(text, address):
    assert parse_address(text) == address
    from_mapping({"WEB_SERVER_ADDRESS": text})


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:70000", "host:-1"])
def test_addresses_without_a_port_are_refused(text):
    with pytest.raises(ConfigurationError, match=r"\[address:\]port"):
        parse_address(text)

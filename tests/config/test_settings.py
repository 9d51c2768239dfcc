"""The settings: which keys there are, their defaults, and what follows from them."""

from __future__ import annotations

import pickle

import pytest

from aiorpc.config import (
    BrokerUrl,
    Settings,
    from_mapping,
)


def test_a_nameko_file_is_read_unchanged(read):
    settings = read("""
AMQP_URI: pyamqp://guest:guest@localhost
WEB_SERVER_ADDRESS: '0.0.0.0:8000'
rpc_exchange: 'other-rpc'
serializer: 'msgpack'
ACCEPT: [msgpack, json]
SERIALIZERS:
  upperjson:
    encoder: 'my.module.dumps'
    decoder: 'my.module.loads'
    content_type: 'application/x-upper-json'
    content_encoding: 'binary'
HEARTBEAT: 60
max_workers: 10
parent_calls_tracked: 10
AUTO_DELETE_EVENT_EXCHANGES: true
DECLARE_EVENT_EXCHANGES: false
LOGIN_METHOD: EXTERNAL
SERVICE_CONTAINER_CLS: my.Container
TRANSPORT_OPTIONS: {max_retries: 3, interval_start: 2}
AMQP_SSL: {ca_certs: ca.pem, cert_reqs: 2}
DB_URIS: {'service_x:Base': 'mysql://u:p@h/firstbase?charset=utf8'}
LOGGING:
  version: 1
  root: {level: DEBUG, handlers: [console]}
SENTRY: {DSN: null}
""")
    assert settings.amqp_uri == "pyamqp://guest:guest@localhost"
    assert settings.rpc_exchange == "other-rpc"
    assert settings.accepted == ("msgpack", "json")
    assert settings.serializers["upperjson"].encoder == "my.module.dumps"
    assert settings.serializers["upperjson"].content_encoding == "binary"
    assert (settings.heartbeat, settings.max_workers) == (60, 10)
    assert settings.auto_delete_event_exchanges
    assert not settings.declare_event_exchanges
    assert settings.login_method == "EXTERNAL"
    assert settings.service_container_cls == "my.Container"
    assert settings.db_uris == {"service_x:Base": "mysql://u:p@h/firstbase?charset=utf8"}
    assert settings.logging is not None
    assert settings.logging["root"]["handlers"] == ["console"]
    assert settings.extra == {"SENTRY": {"DSN": None}}


def test_defaults_are_those_of_the_page():
    settings = from_mapping({})
    assert settings.broker_urls == (BrokerUrl(scheme="amqp", host="localhost", port=5672),)
    assert settings.rpc_exchange == "nameko-rpc"
    assert settings.accepted == ("json",)
    assert (settings.heartbeat, settings.rpc_timeout) == (10, 30.0)
    assert (settings.prefetch, settings.sync_threads) == (100, 100)
    assert settings.notes == ()


def test_prefetch_and_threads_follow_max_workers_unless_given():
    settings = from_mapping({"max_workers": 7})
    assert (settings.prefetch, settings.sync_threads) == (7, 7)
    settings = from_mapping({"max_workers": 7, "PREFETCH_COUNT": 3, "SYNC_WORKERS": 2})
    assert (settings.prefetch, settings.sync_threads) == (3, 2)


def test_the_own_serializer_is_accepted_by_default():
    assert from_mapping({"serializer": "yaml"}).accepted == ("yaml",)
    assert from_mapping({"serializer": "yaml", "ACCEPT": ["json"]}).accepted == ("json",)


def test_keys_of_the_users_own_are_kept(read):
    settings = read("REDIS_URI: redis://h\nmy_flag: true\nmax_workers: 3\n")
    assert settings.raw["REDIS_URI"] == "redis://h"
    assert settings.extra == {"REDIS_URI": "redis://h", "my_flag": True}


@pytest.mark.parametrize(
    "key",
    ["SMTP_URI", "AMQP_USER", "DB_USER", "TCP_TIMEOUT", "LOG_LEVEL", "LOGGER", "MAX_RETRIES"],
)
def test_a_key_unlike_ours_is_the_users_own(key):
    assert from_mapping({key: 1}).extra == {key: 1}


@pytest.mark.parametrize(
    ("key", "likely"),
    [
        ("MAX_WORKERS", "max_workers"),
        ("max_wokers", "max_workers"),
        ("maxWorkers", "max_workers"),
        ("AMQP_URL", "AMQP_URI"),
        ("AMPQ_URI", "AMQP_URI"),
        ("amqp_uri", "AMQP_URI"),
        ("AMQP_TLS", "AMQP_SSL"),
        ("DB_URL", "DB_URI"),
        ("HEART_BEAT", "HEARTBEAT"),
        ("RPC_TIMEOT", "RPC_TIMEOUT"),
        ("PREFETCH", "PREFETCH_COUNT"),
        ("SERIALISER", "serializer"),
    ],
)
def test_a_misspelt_key_names_file_key_and_spelling(complaint, key, likely):
    text = complaint(f"{key}: 1")
    assert "config.yaml: " in text
    assert f"unknown key {key}: did you mean {likely}?" in text


def test_a_key_that_only_looks_like_ours_can_be_declared(read):
    settings = read("EXTRA_KEYS: [GRPC_TIMEOUT]\nGRPC_TIMEOUT: 3\n")
    assert settings.extra == {"GRPC_TIMEOUT": 3}
    assert settings.with_defines({"GRPC_TIMEOUT": 4}).raw["GRPC_TIMEOUT"] == 4


def test_raw_has_neither_defaults_nor_a_way_to_change_it():
    given = {"MINE": {"list": [1]}}
    settings = from_mapping(given)
    given["MINE"]["list"].append(2)
    assert settings.raw == {"MINE": {"list": [1]}}
    with pytest.raises(TypeError):
        settings.raw["MINE"] = 1


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        Settings().max_workers = 3


def test_settings_can_be_pickled():
    settings = from_mapping({"AMQP_SSL": {"ca_certs": "x"}, "MINE": 1})
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_options_without_effect_are_noted():
    (note,) = from_mapping({"TRANSPORT_OPTIONS": {"max_retries": 3}}).notes
    assert "TRANSPORT_OPTIONS has no effect" in note


@pytest.mark.parametrize("value", [True, False, None])
def test_a_former_setting_is_a_note_and_not_an_error(value):
    (note,) = from_mapping({"AMQP_FAST_LANE": value}, "x.yaml").notes
    assert "x.yaml: AMQP_FAST_LANE has no effect" in note
    assert "Delete the key" in note


def test_python_objects_pass_in_free_mappings():
    stream = object()
    handlers = {"h": {"stream": stream}}
    settings = from_mapping({"LOGGING": {"version": 1, "handlers": handlers}})
    assert settings.logging is not None
    assert settings.logging["handlers"]["h"]["stream"] is stream

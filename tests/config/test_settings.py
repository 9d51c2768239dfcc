"""Configuration: Nameko's YAML, the broker's URL, TLS, and what people are shown of them."""

from __future__ import annotations

import contextlib
import pickle
import ssl
import subprocess
import sys
from pathlib import Path

import aiormq
import msgspec
import pytest
from hypothesis import given, strategies as st

import aiorpc
from aiorpc.config import (
    BrokerUrl,
    Settings,
    from_mapping,
    load,
    parse_address,
    parse_broker_urls,
    parse_define,
    redact_url,
    redacted,
    resolve,
    ssl_context,
    tls_server_hostname,
)
from aiorpc.exceptions import ConfigurationError
from tests.support.files import CERTIFICATES

CA, CERTIFICATE = CERTIFICATES / "ca.pem", CERTIFICATES / "broker.pem"
KEY, ENCRYPTED_KEY = CERTIFICATES / "broker-key.pem", CERTIFICATES / "encrypted-key.pem"


@pytest.fixture
def read(tmp_path):
    """Loads YAML from a file called config.yaml, with these environment variables only."""

    def load_text(text, name="config.yaml", **environ):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load(path, environ)

    return load_text


@pytest.fixture
def complaint(read):
    """The text of the error that a YAML text leads to."""

    def complaint_about(text, **environ):
        with pytest.raises(ConfigurationError) as caught:
            read(text, **environ)
        return str(caught.value)

    return complaint_about


class TestKeys:
    def test_a_nameko_file_is_read_unchanged(self, read):
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

    def test_defaults(self):
        settings = from_mapping({})
        assert settings.broker_urls == (BrokerUrl(scheme="amqp", host="localhost", port=5672),)
        assert settings.rpc_exchange == "nameko-rpc"
        assert settings.accepted == ("json",)
        assert (settings.heartbeat, settings.rpc_timeout) == (10, 30.0)
        assert (settings.prefetch, settings.sync_threads) == (100, 100)
        assert settings.notes == ()

    def test_prefetch_and_threads_follow_max_workers_unless_given(self):
        settings = from_mapping({"max_workers": 7})
        assert (settings.prefetch, settings.sync_threads) == (7, 7)
        settings = from_mapping({"max_workers": 7, "PREFETCH_COUNT": 3, "SYNC_WORKERS": 2})
        assert (settings.prefetch, settings.sync_threads) == (3, 2)

    def test_what_is_accepted_is_the_own_serializer_unless_given(self):
        assert from_mapping({"serializer": "yaml"}).accepted == ("yaml",)
        assert from_mapping({"serializer": "yaml", "ACCEPT": ["json"]}).accepted == ("json",)

    def test_keys_of_the_users_own_are_kept(self, read):
        settings = read("REDIS_URI: redis://h\nmy_flag: true\nmax_workers: 3\n")
        assert settings.raw["REDIS_URI"] == "redis://h"
        assert settings.extra == {"REDIS_URI": "redis://h", "my_flag": True}

    @pytest.mark.parametrize(
        "key",
        ["SMTP_URI", "AMQP_USER", "DB_USER", "TCP_TIMEOUT", "LOG_LEVEL", "LOGGER", "MAX_RETRIES"],
    )
    def test_a_key_far_from_ours_is_the_users_own(self, key):
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
    def test_a_misspelt_key_names_file_key_and_spelling(self, complaint, key, likely):
        text = complaint(f"{key}: 1")
        assert "config.yaml: " in text
        assert f"unknown key {key}: did you mean {likely}?" in text

    def test_a_key_that_only_looks_like_ours_can_be_declared(self, read):
        settings = read("EXTRA_KEYS: [GRPC_TIMEOUT]\nGRPC_TIMEOUT: 3\n")
        assert settings.extra == {"GRPC_TIMEOUT": 3}
        assert settings.with_defines({"GRPC_TIMEOUT": 4}).raw["GRPC_TIMEOUT"] == 4

    def test_raw_has_neither_defaults_nor_a_way_to_change_it(self):
        given = {"MINE": {"list": [1]}}
        settings = from_mapping(given)
        given["MINE"]["list"].append(2)
        assert settings.raw == {"MINE": {"list": [1]}}
        with pytest.raises(TypeError):
            settings.raw["MINE"] = 1

    def test_settings_cannot_be_changed(self):
        with pytest.raises(AttributeError):
            Settings().max_workers = 3

    def test_settings_cross_a_process_border(self):
        settings = from_mapping({"AMQP_SSL": {"ca_certs": "x"}, "MINE": 1})
        assert pickle.loads(pickle.dumps(settings)) == settings

    def test_options_without_effect_are_noted(self):
        (note,) = from_mapping({"TRANSPORT_OPTIONS": {"max_retries": 3}}).notes
        assert "TRANSPORT_OPTIONS has no effect" in note

    @pytest.mark.parametrize("value", [True, False, None])
    def test_a_former_setting_is_noted_and_no_error(self, value):
        (note,) = from_mapping({"AMQP_FAST_LANE": value}, "x.yaml").notes
        assert "x.yaml: AMQP_FAST_LANE has no effect" in note
        assert "Delete the key" in note

    def test_objects_that_no_yaml_could_hold_pass_in_free_mappings(self):
        stream = object()
        handlers = {"h": {"stream": stream}}
        settings = from_mapping({"LOGGING": {"version": 1, "handlers": handlers}})
        assert settings.logging is not None
        assert settings.logging["handlers"]["h"]["stream"] is stream


class TestValues:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("max_workers: 'ten'", "max_workers must be int >= 1, got str 'ten'"),
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
    def test_a_wrong_value_names_file_key_expectation_and_type(self, complaint, text, expected):
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
    def test_no_error_shows_a_password(self, complaint, text):
        complained = complaint(text, PASS="@s3cret")
        assert "config.yaml" in complained
        assert "s3" not in complained
        assert "cret" not in complained

    def test_null_is_the_default_where_it_means_nothing_of_its_own(self, read):
        settings = read("max_workers:\nJSON_TYPES: null\nDB_URIS: null\n")
        assert settings.max_workers == 100
        assert settings.json_types == "typed"
        assert settings.db_uris == {}

    def test_null_is_kept_where_it_is_a_value(self, read):
        settings = read("RPC_TIMEOUT: null\nHEARTBEAT: null\nMAX_MESSAGE_SIZE: null\n")
        assert settings.rpc_timeout is None
        assert settings.heartbeat is None
        assert settings.max_message_size is None

    def test_an_unset_variable_does_not_lead_to_the_default_broker(self, complaint):
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
    def test_an_unset_variable_in_a_url_does_not_lead_to_another(self, complaint, text, complained):
        said = complaint(text, URI="amqp://${RHOST}/", RVHOST="")
        said = said.replace("not set in the environment, and without a default: ", "")
        assert complained in said

    def test_a_variable_that_is_empty_or_elsewhere_may_be_missing(self, read):
        settings = read("AMQP_URI: amqp://h/${VHOST}${NONE:}\nMINE: a${NOPE}b", VHOST="")
        assert settings.broker_urls[0].host == "h"
        assert settings.raw["MINE"] == "ab"

    def test_a_define_with_a_hole_in_its_url_is_refused(self):
        with pytest.raises(ConfigurationError, match="--define AMQP_URI: AMQP_URI is incomplete"):
            parse_define("AMQP_URI=amqp://${RHOST}/", {})

    def test_what_is_prefetched_fits_its_field(self):
        assert from_mapping({"max_workers": 100_000}).prefetch == 65535

    def test_off_is_a_word_here_though_yaml_reads_false(self, read):
        assert read("VALIDATE_ARGUMENTS: off").validate_arguments == "off"
        assert read("VALIDATE_ARGUMENTS: 'off'").validate_arguments == "off"
        assert read("VALIDATE_ARGUMENTS: on").validate_arguments == "strict"

    def test_db_uri_is_one_url_or_several(self, read):
        assert read("DB_URI: sqlite://").db_uri == "sqlite://"
        assert read("DB_URI: {'x:Base': sqlite://}").db_uri == {"x:Base": "sqlite://"}

    def test_whole_numbers_serve_as_seconds(self):
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
    def test_addresses(self, text, address):
        assert parse_address(text) == address
        from_mapping({"WEB_SERVER_ADDRESS": text})

    @pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:70000", "host:-1"])
    def test_addresses_without_a_port_are_refused(self, text):
        with pytest.raises(ConfigurationError, match=r"\[address:\]port"):
            parse_address(text)


class TestSubstitution:
    """Nameko's rules, measured: a plain scalar is substituted, then read as YAML."""

    @pytest.mark.parametrize(
        ("scalar", "expected"),
        [
            ("${NUMBER}", 42),
            ("${TEXT}", "hello"),
            ("a${TEXT}b", "ahellob"),
            ("${TEXT}-${NUMBER}", "hello-42"),
            ("${MAPPING}", {"a": [1]}),
            ("${EMPTY}", None),
            ("${EMPTY:default}", None),
            ("${MISSING}", None),
            ("${MISSING:}", None),
            ("${MISSING:7}", 7),
            ("${MISSING:[1, 2]}", [1, 2]),
            ("${MISSING:redis://h:6379/0}", "redis://h:6379/0"),
            ("${MISSING:${NUMBER}}", 42),
            ("${MISSING:${ALSO_MISSING:x}y}", "xy"),
            ("${NUMBER:${MISSING}}", 42),
            ("${INDIRECT}", "hello!"),
            ("${ITSELF}", "${ITSELF}"),
            ("'${NUMBER}'", "${NUMBER}"),
            ('"${NUMBER}"', "${NUMBER}"),
            ('!env_var "${NUMBER}"', 42),
            ('!env_var "${MISSING:{a: {b: 1}}}"', {"a": {"b": 1}}),
            ('!env_var "nothing"', "nothing"),
            ('!raw_env_var "${NUMBER}"', "42"),
            ('!raw_env_var "${MISSING:007}"', "007"),
            ('!raw_env_var "${INDIRECT}"', "${TEXT}!"),
            ("${NUMBER", "${NUMBER"),
            ("${two words}", "${two words}"),
            ("$NUMBER", "$NUMBER"),
            ("100$", "100$"),
        ],
    )
    def test_scalars(self, read, scalar, expected):
        settings = read(
            f"MINE: {scalar}",
            NUMBER="42",
            TEXT="hello",
            MAPPING="{a: [1]}",
            EMPTY="",
            INDIRECT="${TEXT}!",
            ITSELF="${ITSELF}",
        )
        assert settings.raw["MINE"] == expected

    def test_keys_and_nested_values(self, read):
        settings = read("DB_URIS:\n  ${SERVICE}:Base: ${URL}\n", SERVICE="x", URL="sqlite://")
        assert settings.db_uris == {"x:Base": "sqlite://"}

    def test_a_value_from_the_environment_has_yaml_s_type(self, read):
        assert read("max_workers: ${WORKERS:10}", WORKERS="3").max_workers == 3
        assert read("max_workers: ${WORKERS:10}").max_workers == 10
        assert read("CONFIRM_REPLIES: ${YES}", YES="true").confirm_replies is True

    def test_the_process_environment_is_the_default(self, tmp_path, monkeypatch):
        monkeypatch.setenv("AIORPC_TEST_WORKERS", "5")
        path = tmp_path / "config.yaml"
        path.write_text("max_workers: ${AIORPC_TEST_WORKERS}")
        assert load(path).max_workers == 5

    def test_variables_that_go_in_a_circle_are_an_error(self, complaint):
        text = complaint("MINE: ${A}", A="x${B}", B="y${A}")
        assert "refer to each other" in text

    def test_a_value_that_is_no_yaml_names_the_remedy(self, complaint):
        text = complaint("MINE: ${A}", A="@secret")
        assert "!raw_env_var" in text
        assert "secret" not in text

    @given(st.text(alphabet="${}:ab 1'\"!", max_size=40))
    def test_any_text_is_a_value_or_a_clear_error(self, text):
        with contextlib.suppress(ConfigurationError):
            parse_define(f"K={text}", {"a": "${b}", "b": "1"})


class TestFiles:
    def test_an_empty_file_is_all_defaults(self, read):
        assert read("").raw == {}
        assert read("# nothing yet\n").max_workers == 100

    @pytest.mark.parametrize("text", ["- 1\n", "hello\n"])
    def test_what_is_no_mapping_is_refused(self, complaint, text):
        assert "must hold a mapping of keys to values, got " in complaint(text)

    def test_bad_yaml_names_the_place(self, complaint):
        assert "config.yaml is not valid YAML at line 2, column 2" in complaint("a: [b\nc: }")

    @pytest.mark.parametrize(
        "text",
        ["a: x\x07y", "a: !!timestamp foo", "a: !!bool foo", 'a: !!int ""', "a: &x {b: *x}"],
    )
    def test_odd_yaml_is_an_error_of_ours(self, complaint, text):
        assert (
            complaint(text).partition("config.yaml")[2].startswith((" is not valid", ": a value"))
        )

    def test_foreign_tags_are_refused(self, complaint):
        assert "could not determine a constructor" in complaint("a: !!python/object:os.system x")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ConfigurationError, match=r"nowhere\.yaml cannot be read: No such file"):
            load(tmp_path / "nowhere.yaml")

    def test_a_file_that_is_no_text_is_named(self, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_bytes(b"a: \xff")
        with pytest.raises(ConfigurationError, match="not UTF-8 at byte 3"):
            load(path)

    def test_toml(self, read):
        settings = read(
            'max_workers = 3\nHEARTBEAT = "${BEAT:5}"\nMINE = "plain"\n'
            '[DB_URIS]\n"x:Base" = "sqlite:///${NAME}"\n',
            name="config.toml",
            NAME="base",
        )
        assert (settings.max_workers, settings.heartbeat) == (3, 5)
        assert settings.raw["MINE"] == "plain"
        assert settings.db_uris == {"x:Base": "sqlite:///base"}

    def test_bad_toml_names_the_file(self, read):
        with pytest.raises(ConfigurationError, match=r"config\.toml is not valid TOML: .*line 1"):
            read("max_workers = ]", name="config.toml")


class TestDefines:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("max_workers=3", ("max_workers", 3)),
            ("FLAG", ("FLAG", True)),
            ("A.B=1", ("A.B", 1)),
            ("URL=amqp://h/?x=1", ("URL", "amqp://h/?x=1")),
            ("LIST=[1, two]", ("LIST", [1, "two"])),
            ("EMPTY=", ("EMPTY", None)),
            ("QUOTED='5'", ("QUOTED", "5")),
            ("FROM=${A:b}", ("FROM", "b")),
        ],
    )
    def test_values_are_yaml(self, text, expected):
        assert parse_define(text, {}) == expected

    def test_a_key_is_needed(self):
        with pytest.raises(ConfigurationError, match="KEY=VALUE") as caught:
            parse_define("=s3cret")
        assert "s3cret" not in str(caught.value)

    def test_they_win_over_the_file(self, read):
        settings = read("max_workers: 3\nHEARTBEAT: 5\nMINE: 1\n")
        changed = settings.with_defines({"max_workers": 4, "MINE": 2, "A.B": 1})
        assert (changed.max_workers, changed.heartbeat) == (4, 5)
        assert changed.raw == {"max_workers": 4, "HEARTBEAT": 5, "MINE": 2, "A.B": 1}
        assert settings.max_workers == 3

    def test_they_keep_what_a_program_set(self):
        settings = Settings(max_workers=3).with_defines({"HEARTBEAT": 5})
        assert (settings.max_workers, settings.heartbeat) == (3, 5)

    def test_what_they_replace_is_not_read(self, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text("AMQP_URI: ${NOT_SET}\nmax_workers: 3\nAMQP_SSL: {zzz: 1}\n")
        settings = load(path, {}, replaced=["AMQP_URI", "AMQP_SSL"])
        settings = settings.with_defines({"AMQP_URI": "amqp://h/?cafile=x", "AMQP_SSL": True})
        assert settings.broker_urls[0].scheme == "amqps"
        assert (settings.max_workers, list(settings.raw)) == (
            3,
            ["AMQP_URI", "max_workers", "AMQP_SSL"],
        )

    def test_null_takes_back_what_the_file_says(self, read):
        assert read("max_workers: 3").with_defines({"max_workers": None}).max_workers == 100

    def test_errors_name_the_option_and_not_the_file(self, read):
        with pytest.raises(ConfigurationError, match=r"^--define: max_workers must be int >= 1"):
            read("max_workers: 3").with_defines({"max_workers": "x"})
        with pytest.raises(ConfigurationError, match=r"^--broker: AMQP_URI "):
            Settings().with_defines({"AMQP_URI": "x"}, source="--broker")


class TestResolve:
    def test_a_url(self):
        assert resolve("memory://tests").broker_urls[0].host == "tests"

    def test_a_mapping(self):
        assert resolve({"AMQP_URI": "memory://", "max_workers": 2}).max_workers == 2

    def test_settings_are_themselves(self):
        settings = Settings()
        assert resolve(settings) is settings

    def test_nothing_is_the_defaults(self):
        assert resolve(None) == Settings()

    def test_a_path(self, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text("max_workers: 2")
        assert resolve(path).max_workers == 2
        assert resolve(str(path)).max_workers == 2

    def test_neither_url_nor_file(self):
        with pytest.raises(ConfigurationError, match=r"cannot be read.*amqp://guest"):
            resolve("localhost")

    def test_anything_else(self):
        with pytest.raises(ConfigurationError, match=r"config must be a URL .* got int"):
            resolve(3)

    def test_a_bad_url(self):
        with pytest.raises(ConfigurationError, match="scheme 'http' is not one of amqp, pyamqp"):
            resolve("http://u:p@h")


class TestBrokerUrl:
    """The URIs of Nameko's reference table, as kombu reads them."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("pyamqp://u:p@h", ("amqp", "u", "p", "h", 5672, "/")),
            ("pyamqp://u:p@h/", ("amqp", "u", "p", "h", 5672, "/")),
            ("pyamqp://u:p@h//", ("amqp", "u", "p", "h", 5672, "/")),
            ("pyamqp://u:p@h:5673/vh", ("amqp", "u", "p", "h", 5673, "vh")),
            ("amqp://u%40x:p%2Fw@h/v%2Fh", ("amqp", "u@x", "p/w", "h", 5672, "v/h")),
            ("amqp://u:p@h/a/b", ("amqp", "u", "p", "h", 5672, "a/b")),
            ("pyamqp://", ("amqp", "guest", "guest", "localhost", 5672, "/")),
            ("AMQP://h", ("amqp", "guest", "guest", "h", 5672, "/")),
            ("amqps://h/v", ("amqps", "guest", "guest", "h", 5671, "v")),
            ("amqps://h:5672/v", ("amqps", "guest", "guest", "h", 5672, "v")),
            ("amqp://h/?heartbeat=10&ssl=1", ("amqps", "guest", "guest", "h", 5671, "/")),
            ("amqp://h/?ssl=0", ("amqp", "guest", "guest", "h", 5672, "/")),
            ("amqp://[::1]:5673/", ("amqp", "guest", "guest", "::1", 5673, "/")),
            ("amqp://u:a@b@h/", ("amqp", "u", "a@b", "h", 5672, "/")),
            ("amqp://u:p+q@h/", ("amqp", "u", "p+q", "h", 5672, "/")),
        ],
    )
    def test_parts(self, text, expected):
        (url,) = parse_broker_urls(text)
        assert (url.scheme, url.user, url.password, url.host, url.port, url.vhost) == expected

    def test_alternatives(self):
        urls = parse_broker_urls("amqp://a ; pyamqp://b:5673/v;")
        assert [(url.host, url.port, url.vhost) for url in urls] == [
            ("a", 5672, "/"),
            ("b", 5673, "v"),
        ]

    def test_amqp_ssl_makes_it_tls(self):
        (url,) = from_mapping({"AMQP_URI": "amqp://h", "AMQP_SSL": True}).broker_urls
        assert (url.scheme, url.port) == ("amqps", 5671)

    def test_memory(self):
        assert [parse_broker_urls(text)[0].host for text in ("memory://", "memory://Name/")] == [
            "",
            "Name",
        ]
        assert str(parse_broker_urls("memory://tests")[0]) == "memory://tests"

    def test_parameters(self):
        (url,) = parse_broker_urls("amqp://h/?heartbeat=10&connect_timeout=2.5&login_method=plain")
        assert (url.heartbeat, url.connect_timeout, url.login_method) == (10, 2.5, "PLAIN")
        (url,) = parse_broker_urls("amqp://h")
        assert (url.heartbeat, url.connect_timeout, url.login_method) == (None, None, None)

    def test_timeouts_of_kombu_and_aio_pika_are_seconds_and_of_rabbitmq_milliseconds(self):
        for query in ("connect_timeout=3", "timeout=3", "connection_timeout=3000"):
            assert parse_broker_urls(f"amqp://h/?{query}")[0].connect_timeout == 3.0

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "AMQP_URI is empty"),
            (" ; ", "AMQP_URI is empty"),
            ("localhost", "needs a scheme"),
            ("redis://h", "scheme 'redis' is not one of"),
            ("amqp://h:port/", "host and port cannot be told apart"),
            ("amqp://h:99999/", "host and port cannot be told apart"),
            ("amqp://u:p#w@h/", "# is %23"),
            ("amqp://h/?heartbeet=3", "unknown query parameter 'heartbeet'; known are heartbeat"),
            ("amqp://h/?heartbeat=soon", "heartbeat must be a number >= 0, got 'soon'"),
            ("amqp://h/?connect_timeout=nan", "connect_timeout must be a number >= 0"),
            ("amqp://h/?ssl=maybe", "ssl must be 1 or 0, got 'maybe'"),
            ("amqps://h/?verify=no", "verify must be verify_peer or verify_none"),
            ("amqps://h/?verify=verify_peer&no_verify_ssl=1", "contradict each other"),
            ("amqp://h/?cafile=x", "cafile is about TLS, and this is plain TCP"),
            ("amqp://h/?verify=verify_peer", "verify is about TLS, and this is plain TCP"),
            ("amqp://user:12?s3cr3t@h/", "host and port cannot be told apart"),
            ("amqp://user:12/s3cr3t@h/", "host and port cannot be told apart"),
            ("memory://a;memory://b", "stands alone"),
            ("memory://u:p@h", "memory:// is followed by a name"),
        ],
    )
    def test_problems_are_named(self, text, problem):
        with pytest.raises(ConfigurationError) as caught:
            parse_broker_urls(text)
        assert problem in str(caught.value)
        assert "s3cr3t" not in str(caught.value)

    def test_parameters_of_tls_go_with_amqp_ssl(self):
        uri = "amqp://h/?cafile=x"
        assert from_mapping({"AMQP_URI": uri, "AMQP_SSL": True}).broker_urls[0].scheme == "amqps"
        with pytest.raises(ConfigurationError, match="cafile is about TLS"):
            from_mapping({"AMQP_URI": uri, "AMQP_SSL": False})
        settings = from_mapping({"AMQP_SSL": True}).with_defines({"AMQP_URI": uri})
        with pytest.raises(ConfigurationError, match=r"--define: .* cafile is about TLS"):
            settings.with_defines({"AMQP_SSL": False})

    def test_neither_str_nor_repr_nor_a_cause_shows_the_password(self):
        (url,) = parse_broker_urls("amqp://u:s3cret@h/v?timeout=3")
        assert str(url) == "amqp://u:***@h:5672/v"
        assert "s3cret" not in f"{url!r} {url.__rich_repr__()}"
        with pytest.raises(ConfigurationError) as caught:
            parse_broker_urls("amqp://u:s3#cret@h/")
        assert caught.value.__suppress_context__

    def test_urls_serve_as_keys(self):
        assert len({parse_broker_urls("amqp://h")[0], parse_broker_urls("pyamqp://h/")[0]}) == 1

    @pytest.mark.parametrize("text", ["amqp://u:p@h/?heartbeat=3", "amqps://h/v", "memory://x"])
    def test_a_written_url_reads_the_same(self, text):
        (url,) = parse_broker_urls(text)
        assert parse_broker_urls(url.to_url()) == (msgspec.structs.replace(url, query=()),)

    @given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
    def test_any_user_password_and_vhost_survive_writing(self, user, password, vhost):
        url = BrokerUrl(scheme="amqp", host="h", port=1, user=user, password=password, vhost=vhost)
        try:
            text = url.to_url()
        except UnicodeEncodeError:  # half a character: no URL can hold it
            return
        assert parse_broker_urls(text) == (url,)

    async def test_aio_pika_s_connection_reads_what_we_write(self):
        (url,) = parse_broker_urls("pyamqp://u%40x:p%2F;w%25@h:5673/v%2Fh".replace(";", "%3B"))
        connection = aiormq.Connection(url.to_url(heartbeat=7, name="tests"))
        assert (connection.url.user, connection.url.password) == ("u@x", "p/;w%")
        assert (connection.url.host, connection.url.port) == ("h", 5673)
        assert connection.vhost == "v/h"
        assert (connection.heartbeat_timeout, connection.connection_name) == (7, "tests")


class TestRedaction:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("amqp://u:p@h:5672/v", "amqp://u:***@h:5672/v"),
            ("amqp://h:5672/v", "amqp://h:5672/v"),
            ("amqp://u@h", "amqp://u@h"),
            ("redis://:p@h", "redis://:***@h"),
            ("amqp://a:p@h;amqp://b:q@i", "amqp://a:***@h;amqp://b:***@i"),
            ("amqp://u:p;q@h", "amqp://u:***@h"),
            ("amqp://u:p@q/r@h", "amqp://u:***@h"),
            ("amqp://u:p#q@h", "amqp://u:***@h"),
            ("amqp://u:oops", "amqp://u:***"),
            ("amqp://[::1]:5672/", "amqp://[::1]:5672/"),
            ("postgresql://h/db?user=u&password=p", "postgresql://h/db?user=u&password=***"),
            ("postgresql://h/db?sslpassword=p&x=1", "postgresql://h/db?sslpassword=***&x=1"),
            ("https://h/?api_key=k&client_secret=s", "https://h/?api_key=***&client_secret=***"),
            ("mysql://u:p@h/db?charset=utf8", "mysql://u:***@h/db?charset=utf8"),
            ("sqlite:///file.db", "sqlite:///file.db"),
        ],
    )
    def test_urls(self, url, shown):
        assert redact_url(url) == shown

    @given(st.text(alphabet="abc;:/?#@&=[]%", min_size=1, max_size=12))
    def test_no_odd_password_escapes(self, oddity):
        shown = redact_url(f"amqp://user:SECRET{oddity}SECRET@host/vhost")
        assert "SECRET" not in shown

    @pytest.mark.parametrize(
        "name",
        [
            *(
                "pass",
                "DB_PASS",
                "rabbitPass",
                "DBPASS",
                "PASSWORDS",
                "pwds",
                "MYSQLPWD",
                "passcode",
            ),
            *("PRIVATE_KEY", "PRIVATEKEY", "AUTHORIZATION", "PASS_PHRASE", "creds", "DSNS"),
        ],
    )
    def test_names_of_secrets(self, name):
        shown = redacted(from_mapping({name: "s3cret", "nested": [{name: "s3cret"}]}))
        assert shown == {name: "***", "nested": [{name: "***"}]}

    @pytest.mark.parametrize("name", ["BYPASS_CACHE", "compass", "keyfile", "passenger", "address"])
    def test_names_that_are_no_secrets(self, name):
        assert redacted(from_mapping({name: "shown"})) == {name: "shown"}

    def test_a_config_is_shown_as_given_without_its_secrets(self):
        settings = from_mapping(
            {
                "AMQP_URI": "amqp://u:s3cret@h",
                "DB_URIS": {"x:Base": "mysql://u:s3cret@h/db", "y:Base": "s3cret"},
                "max_workers": 3,
                "SENTRY_DSN": "https://s3cret@h/1",
                "SECRETS": {"a": ["s3cret"]},
                "mail": {"apiToken": "s3cret", "keyfile": "a.pem", "urls": ["x://:s3cret@h"]},
                "STRIPE_KEY": None,
            }
        )
        assert redacted(settings) == {
            "AMQP_URI": "amqp://u:***@h",
            "DB_URIS": {"x:Base": "mysql://u:***@h/db", "y:Base": "***"},
            "max_workers": 3,
            "SENTRY_DSN": "***",
            "SECRETS": "***",
            "mail": {"apiToken": "***", "keyfile": "a.pem", "urls": ["x://:***@h"]},
            "STRIPE_KEY": None,
        }

    def test_defaults_are_shown_on_demand(self):
        settings = from_mapping({"AMQP_SSL": {"cert_reqs": 0}, "MINE": 1})
        shown = redacted(settings, defaults=True)
        assert shown["AMQP_URI"] == "amqp://guest:***@localhost/"
        assert shown["AMQP_SSL"]["cert_reqs"] == 0
        assert (shown["RPC_TIMEOUT"], shown["MINE"]) == (30.0, 1)
        assert shown["EXTRA_KEYS"] == []

    def test_settings_can_be_printed(self):
        settings = from_mapping({"AMQP_URI": "amqp://u:s3cret@h", "MY_PASSWORD": "s3cret"})
        printed = f"{settings} {settings!r} {settings.__rich_repr__()}"
        assert "s3cret" not in printed
        assert "max_workers" in printed


def context_of(amqp_ssl=None, uri="amqp://broker.test"):
    settings = from_mapping({"AMQP_URI": uri, "AMQP_SSL": amqp_ssl})
    (url,) = settings.broker_urls
    return ssl_context(settings, url)


def handshake(context, host, server=None):
    """Client and server shake hands in memory; returns the server's side of the session."""
    if server is None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(CERTIFICATE, KEY)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = context.wrap_bio(to_client, to_server, server_hostname=host)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    unfinished = [client_side, server_side]
    for _ in range(10):
        for side in list(unfinished):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            unfinished.remove(side)
    assert not unfinished
    return server_side


class TestTls:
    @pytest.mark.parametrize("amqp_ssl", [None, False, {}])
    def test_plain_tcp_unless_asked_for(self, amqp_ssl):
        assert context_of(amqp_ssl) is None

    def test_memory_knows_no_tls(self):
        assert context_of(True, uri="memory://") is None

    @pytest.mark.parametrize(
        ("amqp_ssl", "uri"),
        [
            (True, "amqp://h"),
            (None, "amqps://h"),
            ({}, "amqps://h"),
            (False, "amqps://h"),
            (None, "amqp://h?ssl=1"),
            ({"certfile": str(CERTIFICATE), "keyfile": str(KEY)}, "amqp://h"),
        ],
    )
    def test_certificate_and_name_are_verified_by_default(self, amqp_ssl, uri):
        context = context_of(amqp_ssl, uri)
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2

    def test_the_own_authority_is_trusted(self):
        handshake(context_of({"ca_certs": str(CA)}), "broker.test")

    def test_an_unknown_authority_is_not(self):
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            handshake(context_of(True), "broker.test")

    def test_the_name_must_be_in_the_certificate(self):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'other\.test'"):
            handshake(context_of({"ca_certs": str(CA)}), "other.test")

    def test_the_name_can_be_given_up_alone(self):
        context = context_of({"ca_certs": str(CA), "check_hostname": False})
        handshake(context, "other.test")
        assert context.verify_mode == ssl.CERT_REQUIRED

    @pytest.mark.parametrize("cert_reqs", [0, "CERT_NONE", ssl.CERT_NONE])
    def test_verification_can_be_given_up(self, cert_reqs):
        handshake(context_of({"cert_reqs": cert_reqs}), "other.test")

    @pytest.mark.parametrize("cert_reqs", [2, "CERT_REQUIRED", ssl.CERT_REQUIRED])
    def test_cert_reqs_as_number_name_or_constant(self, cert_reqs):
        context = context_of({"ca_certs": str(CA), "cert_reqs": cert_reqs})
        assert context.verify_mode == ssl.CERT_REQUIRED
        handshake(context, "broker.test")

    def test_the_own_certificate_is_sent(self):
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(CERTIFICATE, KEY)
        server.load_verify_locations(CA)
        server.verify_mode = ssl.CERT_REQUIRED
        options = {"ca_certs": str(CA), "certfile": str(CERTIFICATE), "keyfile": str(KEY)}
        session = handshake(context_of(options), "broker.test", server)
        assert session.getpeercert()["subject"] == ((("commonName", "broker.test"),),)

    def test_the_name_to_expect(self):
        def expected_name(uri, amqp_ssl):
            settings = from_mapping({"AMQP_URI": uri, "AMQP_SSL": amqp_ssl})
            return tls_server_hostname(settings, settings.broker_urls[0])

        assert expected_name("amqp://10.0.0.1", {"server_hostname": "broker.test"}) == "broker.test"
        assert expected_name("amqps://broker.test", None) == "broker.test"
        assert expected_name("amqp://broker.test", None) is None

    @pytest.mark.parametrize("parameter", ["verify=verify_peer", "no_verify_ssl=0"])
    def test_the_url_may_insist_on_verification(self, parameter):
        context = context_of({"cert_reqs": 0}, f"amqps://h/?{parameter}")
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname

    def test_options_in_the_url_win(self):
        assert context_of(True, "amqps://h?no_verify_ssl=1").verify_mode == ssl.CERT_NONE
        assert context_of(True, "amqps://h?verify=verify_none").verify_mode == ssl.CERT_NONE
        handshake(context_of(None, f"amqps://h?cacertfile={CA}"), "broker.test")

    @pytest.mark.parametrize(
        ("options", "bounds"),
        [
            ({"tls_minimum_version": "TLSv1_3"}, (ssl.TLSVersion.TLSv1_3, None)),
            ({"tls_maximum_version": ssl.TLSVersion.TLSv1_2}, (None, ssl.TLSVersion.TLSv1_2)),
            (
                {"ssl_version": "PROTOCOL_TLSv1_2"},
                (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
            ),
            ({"ssl_version": ssl.PROTOCOL_TLS_CLIENT}, (None, None)),
        ],
    )
    def test_versions(self, options, bounds):
        context, default = context_of(options), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        low, high = bounds
        assert context.minimum_version == (low or default.minimum_version)
        assert context.maximum_version == (high or default.maximum_version)

    def test_ciphers(self):
        context = context_of({"ciphers": "ECDHE-RSA-AES256-GCM-SHA384"})
        assert "ECDHE-RSA-AES256-GCM-SHA384" in {c["name"] for c in context.get_ciphers()}
        assert "ECDHE-RSA-AES128-GCM-SHA256" not in {c["name"] for c in context.get_ciphers()}

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"ca_certs": "/nowhere.pem"}, "ca_certs /nowhere.pem: No such file"),
            ({"ca_certs": str(KEY)}, "ca_certs "),
            ({"certfile": "/nowhere.pem"}, "certfile /nowhere.pem"),
            ({"certfile": str(CERTIFICATE), "keyfile": str(ENCRYPTED_KEY)}, "keyfile "),
            ({"keyfile": str(KEY)}, "keyfile needs the certfile"),
            ({"ciphers": "ROT13"}, "ciphers ROT13"),
            ({"cert_reqs": 0, "check_hostname": True}, "check_hostname needs a certificate"),
        ],
    )
    def test_problems_are_named(self, options, problem):
        with pytest.raises(ConfigurationError) as caught:
            context_of(options)
        assert "AMQP_SSL: " in str(caught.value)
        assert problem in str(caught.value)


def test_importing_it_does_not_load_what_few_need():
    # In a new interpreter, and beneath an empty package, since aiorpc itself imports asyncio.
    script = f"""
import sys, types
sys.modules["aiorpc"] = package = types.ModuleType("aiorpc")
package.__path__ = [{str(Path(aiorpc.__file__).parent)!r}]
import aiorpc.config
print(*sorted({{"yaml", "ssl", "tomllib", "difflib", "asyncio"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []

"""What people see of a configuration: no secrets."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from aiorpc import ClusterRpcProxy, ConfigurationError
from aiorpc.config import (
    from_mapping,
    redact_url,
    redacted,
)


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
def test_passwords_in_urls_are_masked(url, shown):
    assert redact_url(url) == shown


def test_values_of_unknown_parameters_are_masked_where_the_known_ones_are_given():
    shown = redact_url("amqp://u:p@h/?pw=SECRET&x=SECRET&heartbeat=5", {"heartbeat"})
    assert shown == "amqp://u:***@h/?pw=***&x=***&heartbeat=5"


@pytest.mark.parametrize(
    "config",
    [
        *(
            "user:SECRET@host/",
            "SECRET@host",
            "amqp//u:SECRET@host",
            "u:a/SECRET@h",
            "u:SECRET\n@h",
        ),
        "amqp://u:p@h/?pw=SECRET",
    ],
)
def test_a_configuration_that_is_wrong_is_shown_without_its_password(config):
    with pytest.raises(ConfigurationError) as wrong:
        ClusterRpcProxy(config)
    assert "SECRET" not in str(wrong.value)


@example(";a://")
@example(";a://b;c://")
@given(st.text(alphabet="abc;:/?#@&=[]%", min_size=1, max_size=12))
def test_every_odd_password_is_masked(oddity):
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
def test_values_with_a_secret_name_are_masked(name):
    shown = redacted(from_mapping({name: "s3cret", "nested": [{name: "s3cret"}]}))
    assert shown == {name: "***", "nested": [{name: "***"}]}


@pytest.mark.parametrize("name", ["BYPASS_CACHE", "compass", "keyfile", "passenger", "address"])
def test_values_with_a_harmless_name_are_shown(name):
    assert redacted(from_mapping({name: "shown"})) == {name: "shown"}


def test_a_configuration_is_shown_without_its_secrets():
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


def test_defaults_are_shown_on_request():
    settings = from_mapping({"AMQP_SSL": {"cert_reqs": 0}, "MINE": 1})
    shown = redacted(settings, defaults=True)
    assert shown["AMQP_URI"] == "amqp://guest:***@localhost/"
    assert shown["AMQP_SSL"]["cert_reqs"] == 0
    assert (shown["RPC_TIMEOUT"], shown["MINE"]) == (30.0, 1)
    assert shown["EXTRA_KEYS"] == []


def test_settings_can_be_printed():
    settings = from_mapping({"AMQP_URI": "amqp://u:s3cret@h", "MY_PASSWORD": "s3cret"})
    printed = f"{settings} {settings!r} {settings.__rich_repr__()}"
    assert "s3cret" not in printed
    assert "max_workers" in printed

"""The URL of the broker: its parts, its parameters, and what is wrong with one."""

from __future__ import annotations

import aiormq
import msgspec
import pytest
from hypothesis import given, strategies as st

from aiorpc.config import (
    BrokerUrl,
    from_mapping,
    parse_broker_urls,
)
from aiorpc.exceptions import ConfigurationError

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
def test_a_url_is_split_into_its_parts(text, expected):
    (url,) = parse_broker_urls(text)
    assert (url.scheme, url.user, url.password, url.host, url.port, url.vhost) == expected


def test_urls_with_semicolons_are_alternatives():
    urls = parse_broker_urls("amqp://a ; pyamqp://b:5673/v;")
    assert [(url.host, url.port, url.vhost) for url in urls] == [
        ("a", 5672, "/"),
        ("b", 5673, "v"),
    ]


def test_amqp_ssl_makes_it_tls():
    (url,) = from_mapping({"AMQP_URI": "amqp://h", "AMQP_SSL": True}).broker_urls
    assert (url.scheme, url.port) == ("amqps", 5671)


def test_a_memory_url_has_only_a_name():
    assert [parse_broker_urls(text)[0].host for text in ("memory://", "memory://Name/")] == [
        "",
        "Name",
    ]
    assert str(parse_broker_urls("memory://tests")[0]) == "memory://tests"


def test_parameters_of_the_query_are_read():
    (url,) = parse_broker_urls("amqp://h/?heartbeat=10&connect_timeout=2.5&login_method=plain")
    assert (url.heartbeat, url.connect_timeout, url.login_method) == (10, 2.5, "PLAIN")
    (url,) = parse_broker_urls("amqp://h")
    assert (url.heartbeat, url.connect_timeout, url.login_method) == (None, None, None)


def test_timeouts_of_kombu_and_aio_pika_are_seconds_and_of_rabbitmq_milliseconds():
    for query in ("connect_timeout=3", "timeout=3", "connection_timeout=3000"):
        assert parse_broker_urls(f"amqp://h/?{query}")[0].connect_timeout == 3.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "AMQP_URI is empty"),
        (" ; ", "AMQP_URI is empty"),
        ("localhost", "the URL needs a scheme"),
        ("redis://h", "scheme 'redis' is not one of"),
        ("amqp://h:port/", "cannot find host and port"),
        ("amqp://h:99999/", "cannot find host and port"),
        ("amqp://u:p#w@h/", "# is %23"),
        ("amqp://h/?heartbeet=3", "unknown query parameter 'heartbeet'; known are heartbeat"),
        ("amqp://h/?heartbeat=soon", "heartbeat must be a number >= 0, got 'soon'"),
        ("amqp://h/?connect_timeout=nan", "connect_timeout must be a number >= 0"),
        ("amqp://h/?ssl=maybe", "ssl must be 1 or 0, got 'maybe'"),
        ("amqps://h/?verify=no", "verify must be verify_peer or verify_none"),
        ("amqps://h/?verify=verify_peer&no_verify_ssl=1", "contradict each other"),
        ("amqp://h/?cafile=x", "cafile needs TLS, and the URL has plain TCP"),
        ("amqp://h/?verify=verify_peer", "verify needs TLS, and the URL has plain TCP"),
        ("amqp://user:12?s3cr3t@h/", "cannot find host and port"),
        ("amqp://user:12/s3cr3t@h/", "cannot find host and port"),
        ("memory://a;memory://b", "use it alone"),
        ("memory://u:p@h", "memory:// may only have a name"),
    ],
)
def test_problems_are_named(text, problem):
    with pytest.raises(ConfigurationError) as caught:
        parse_broker_urls(text)
    assert problem in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_parameters_of_tls_go_with_amqp_ssl():
    uri = "amqp://h/?cafile=x"
    assert from_mapping({"AMQP_URI": uri, "AMQP_SSL": True}).broker_urls[0].scheme == "amqps"
    with pytest.raises(ConfigurationError, match="cafile needs TLS"):
        from_mapping({"AMQP_URI": uri, "AMQP_SSL": False})
    settings = from_mapping({"AMQP_SSL": True}).with_defines({"AMQP_URI": uri})
    with pytest.raises(ConfigurationError, match=r"--define: .* cafile needs TLS"):
        settings.with_defines({"AMQP_SSL": False})


def test_no_text_of_a_url_shows_the_password():
    (url,) = parse_broker_urls("amqp://u:s3cret@h/v?timeout=3")
    assert str(url) == "amqp://u:***@h:5672/v"
    assert "s3cret" not in f"{url!r} {url.__rich_repr__()}"
    with pytest.raises(ConfigurationError) as caught:
        parse_broker_urls("amqp://u:s3#cret@h/")
    assert caught.value.__suppress_context__


def test_urls_are_hashable():
    assert len({parse_broker_urls("amqp://h")[0], parse_broker_urls("pyamqp://h/")[0]}) == 1


@pytest.mark.parametrize("text", ["amqp://u:p@h/?heartbeat=3", "amqps://h/v", "memory://x"])
def test_a_written_url_reads_the_same(text):
    (url,) = parse_broker_urls(text)
    assert parse_broker_urls(url.to_url()) == (msgspec.structs.replace(url, query=()),)


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_any_user_password_and_vhost_survive_writing(user, password, vhost):
    url = BrokerUrl(scheme="amqp", host="h", port=1, user=user, password=password, vhost=vhost)
    try:
        text = url.to_url()
    except UnicodeEncodeError:  # half a character: no URL can hold it
        return
    assert parse_broker_urls(text) == (url,)


async def test_aio_pika_s_connection_reads_what_we_write():
    (url,) = parse_broker_urls("pyamqp://u%40x:p%2F;w%25@h:5673/v%2Fh".replace(";", "%3B"))
    connection = aiormq.Connection(url.to_url(heartbeat=7, name="tests"))
    assert (connection.url.user, connection.url.password) == ("u@x", "p/;w%")
    assert (connection.url.host, connection.url.port) == ("h", 5673)
    assert connection.vhost == "v/h"
    assert (connection.heartbeat_timeout, connection.connection_name) == (7, "tests")

"""TLS: what a connection verifies, by configuration and URL, in real handshakes."""

from __future__ import annotations

import ssl

import pytest

from aiorpc.config import (
    from_mapping,
    ssl_context,
    tls_server_hostname,
)
from aiorpc.exceptions import ConfigurationError
from tests.support.files import CERTIFICATES
from tests.support.tls import permit_tls_from

CA, CERTIFICATE = CERTIFICATES / "ca.pem", CERTIFICATES / "broker.pem"
KEY, ENCRYPTED_KEY = CERTIFICATES / "broker-key.pem", CERTIFICATES / "encrypted-key.pem"


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


@pytest.mark.parametrize("amqp_ssl", [None, False, {}])
def test_plain_tcp_is_the_default(amqp_ssl):
    assert context_of(amqp_ssl) is None


def test_memory_has_no_tls():
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
def test_certificate_and_name_are_verified_by_default(amqp_ssl, uri):
    context = context_of(amqp_ssl, uri)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("options", "minimum"),
    [
        (True, ssl.TLSVersion.TLSv1_2),
        ({"tls_minimum_version": "TLSv1_3"}, ssl.TLSVersion.TLSv1_3),
        ({"ssl_version": "PROTOCOL_TLSv1_2"}, ssl.TLSVersion.TLSv1_2),
        ({"ssl_version": "PROTOCOL_TLS"}, ssl.TLSVersion.TLSv1_2),
    ],
)
def test_tls_1_2_is_the_lowest_version_whatever_openssl_permits(options, minimum, monkeypatch):
    permit_tls_from(monkeypatch, ssl.TLSVersion.MINIMUM_SUPPORTED)
    assert context_of(options).minimum_version == minimum


def test_a_machine_that_demands_a_newer_version_gets_it(monkeypatch):
    permit_tls_from(monkeypatch, ssl.TLSVersion.TLSv1_3)
    assert context_of(True).minimum_version == ssl.TLSVersion.TLSv1_3


def test_the_own_authority_is_trusted():
    handshake(context_of({"ca_certs": str(CA)}), "broker.test")


def test_an_unknown_authority_is_not_trusted():
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        handshake(context_of(True), "broker.test")


def test_the_name_must_be_in_the_certificate():
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'other\.test'"):
        handshake(context_of({"ca_certs": str(CA)}), "other.test")


def test_the_check_of_the_name_can_be_switched_off_alone():
    context = context_of({"ca_certs": str(CA), "check_hostname": False})
    handshake(context, "other.test")
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("cert_reqs", [0, "CERT_NONE", ssl.CERT_NONE])
def test_verification_can_be_switched_off(cert_reqs):
    handshake(context_of({"cert_reqs": cert_reqs}), "other.test")


@pytest.mark.parametrize("cert_reqs", [2, "CERT_REQUIRED", ssl.CERT_REQUIRED])
def test_cert_reqs_is_a_number_a_name_or_a_constant(cert_reqs):
    context = context_of({"ca_certs": str(CA), "cert_reqs": cert_reqs})
    assert context.verify_mode == ssl.CERT_REQUIRED
    handshake(context, "broker.test")


def test_the_own_certificate_is_sent():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE, KEY)
    server.load_verify_locations(CA)
    server.verify_mode = ssl.CERT_REQUIRED
    options = {"ca_certs": str(CA), "certfile": str(CERTIFICATE), "keyfile": str(KEY)}
    session = handshake(context_of(options), "broker.test", server)
    assert session.getpeercert()["subject"] == ((("commonName", "broker.test"),),)


def test_the_expected_name_is_the_host_or_the_configured_one():
    def expected_name(uri, amqp_ssl):
        settings = from_mapping({"AMQP_URI": uri, "AMQP_SSL": amqp_ssl})
        return tls_server_hostname(settings, settings.broker_urls[0])

    assert expected_name("amqp://10.0.0.1", {"server_hostname": "broker.test"}) == "broker.test"
    assert expected_name("amqps://broker.test", None) == "broker.test"
    assert expected_name("amqp://broker.test", None) is None


@pytest.mark.parametrize("parameter", ["verify=verify_peer", "no_verify_ssl=0"])
def test_the_url_can_require_verification(parameter):
    context = context_of({"cert_reqs": 0}, f"amqps://h/?{parameter}")
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_options_in_the_url_win():
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
def test_tls_versions_are_bounded(options, bounds):
    context, default = context_of(options), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    low, high = bounds
    assert context.minimum_version == (low or ssl.TLSVersion.TLSv1_2)
    assert context.maximum_version == (high or default.maximum_version)


def test_ciphers_are_set():
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
def test_problems_are_named(options, problem):
    with pytest.raises(ConfigurationError) as caught:
        context_of(options)
    assert "AMQP_SSL: " in str(caught.value)
    assert problem in str(caught.value)

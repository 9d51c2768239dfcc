"""
``AMQP_SSL`` and ``amqps://`` as a context of :mod:`ssl`. Reads certificates; opens no connection.
Imports ``exceptions`` and the modules beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ..exceptions import ConfigurationError
from .broker_url import BrokerUrl
from .settings import Settings, TlsOptions

if TYPE_CHECKING:
    import ssl  # 10 ms that a process without TLS need not spend


def ssl_context(settings: Settings, url: BrokerUrl) -> ssl.SSLContext | None:
    """
    The TLS context for a connection to ``url``, or None for plain TCP.

    TLS is asked for by ``amqps://``, by ``ssl=1`` in the URL, or by a truthy ``AMQP_SSL``; without
    options it verifies against the system's authorities. Options in the URL's query win over those
    in ``AMQP_SSL``.

    Safer than Nameko, which checks the broker's host name only where ``server_hostname`` is given:
    here it is checked wherever a certificate is required, against :func:`tls_server_hostname`.
    ``check_hostname: false`` keeps the certificate and gives up the name; ``cert_reqs: 0`` gives
    up both.

    Raises ``ConfigurationError`` where a file cannot be read or options contradict each other.
    """
    options = _options(settings, url)
    if options is None:
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _set_verification(context, options)
    _set_versions(context, options)
    _load_certificates(context, options)
    return context


def tls_server_hostname(settings: Settings, url: BrokerUrl) -> str | None:
    """The name to send as SNI and to expect in the broker's certificate; None without TLS."""
    options = _options(settings, url)
    return None if options is None else options.server_hostname or url.host


def _options(settings: Settings, url: BrokerUrl) -> TlsOptions | None:
    """None: no TLS."""
    if url.scheme == "memory" or (url.scheme == "amqp" and not settings.amqp_ssl):
        return None
    configured = settings.amqp_ssl if isinstance(settings.amqp_ssl, TlsOptions) else TlsOptions()
    return msgspec.structs.replace(configured, **url.tls_options)


def _set_verification(context: ssl.SSLContext, options: TlsOptions) -> None:
    import ssl

    required = options.cert_reqs
    mode = ssl.VerifyMode[required] if isinstance(required, str) else ssl.VerifyMode(required)
    verifies = mode != ssl.CERT_NONE
    check_hostname = verifies if options.check_hostname is None else options.check_hostname
    if check_hostname and not verifies:
        raise ConfigurationError(
            "AMQP_SSL: check_hostname needs a certificate to check: set cert_reqs: CERT_REQUIRED"
        )
    # In this order: a context refuses CERT_NONE as long as it checks host names.
    context.check_hostname = check_hostname
    context.verify_mode = mode


def _set_versions(context: ssl.SSLContext, options: TlsOptions) -> None:
    import ssl

    def version(value: int | str) -> ssl.TLSVersion:
        return ssl.TLSVersion[value] if isinstance(value, str) else ssl.TLSVersion(value)

    if options.ssl_version in {5, "PROTOCOL_TLSv1_2"}:
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    if options.tls_minimum_version is not None:
        context.minimum_version = version(options.tls_minimum_version)
    if options.tls_maximum_version is not None:
        context.maximum_version = version(options.tls_maximum_version)


def _load_certificates(context: ssl.SSLContext, options: TlsOptions) -> None:
    import ssl

    if options.keyfile and not options.certfile:
        raise ConfigurationError("AMQP_SSL: keyfile needs the certfile that it belongs to")
    step = "certificates of the system"
    try:
        if options.ciphers:
            step = f"ciphers {options.ciphers}"
            context.set_ciphers(options.ciphers)
        if options.certfile:
            step = f"certfile {options.certfile}, keyfile {options.keyfile}"
            # The empty password keeps OpenSSL from asking for one on the terminal.
            context.load_cert_chain(options.certfile, options.keyfile, password="")
        if options.ca_certs:
            step = f"ca_certs {options.ca_certs}"
            context.load_verify_locations(options.ca_certs)
        elif context.verify_mode != ssl.CERT_NONE:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    except OSError as error:  # ssl.SSLError is one, and so is a missing file
        raise ConfigurationError(f"AMQP_SSL: {step}: {error.strerror or error}") from error

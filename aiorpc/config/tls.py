"""
Makes the :mod:`ssl` context for ``AMQP_SSL`` and ``amqps://``.

Reads certificate files; opens no connection. Imports ``exceptions`` and ``settings``.
"""

from __future__ import annotations

import ssl

import msgspec

from ..exceptions import ConfigurationError
from .broker_url import BrokerUrl
from .settings import Settings, TlsOptions

__all__ = ["refuse_old_tls", "ssl_context", "tls_server_hostname"]


def ssl_context(settings: Settings, url: BrokerUrl) -> ssl.SSLContext | None:
    """
    Return the TLS context for a connection to ``url``, or None for plain TCP.

    ``amqps://``, ``ssl=1`` in the URL, or a truthy ``AMQP_SSL`` switches TLS on. By default, the
    system's authorities verify the certificate. The URL's query overrides ``AMQP_SSL``.

    Nameko checks the broker's host name only with ``server_hostname``. aiorpc is stricter: it
    checks the name against :func:`tls_server_hostname` if a certificate is required.
    ``check_hostname: false`` switches off the check of the name, ``cert_reqs: 0`` both checks.

    Raises:
        ConfigurationError: a file cannot be read, or options contradict each other.
    """
    options = _options(settings, url)
    if options is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _set_verification(context, options)
    _set_versions(context, options)
    _load_certificates(context, options)
    return context


def tls_server_hostname(settings: Settings, url: BrokerUrl) -> str | None:
    """Return the host name for SNI and for the check of the certificate, or None without TLS."""
    options = _options(settings, url)
    return None if options is None else options.server_hostname or url.host


def refuse_old_tls(context: ssl.SSLContext) -> None:
    """
    Refuse versions before TLS 1.2. On some systems, OpenSSL's configuration sets the lowest
    version, which may be TLS 1.0.
    """
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)


def _options(settings: Settings, url: BrokerUrl) -> TlsOptions | None:
    """Return the options that apply to ``url``, or None for plain TCP."""
    if url.scheme == "memory" or (url.scheme == "amqp" and not settings.amqp_ssl):
        return None
    configured = settings.amqp_ssl if isinstance(settings.amqp_ssl, TlsOptions) else TlsOptions()
    return msgspec.structs.replace(configured, **url.tls_options)


def _set_verification(context: ssl.SSLContext, options: TlsOptions) -> None:
    required = options.cert_reqs
    mode = ssl.VerifyMode[required] if isinstance(required, str) else ssl.VerifyMode(required)
    verifies = mode != ssl.CERT_NONE
    check_hostname = verifies if options.check_hostname is None else options.check_hostname
    if check_hostname and not verifies:
        raise ConfigurationError(
            "AMQP_SSL: check_hostname needs a certificate to check: set cert_reqs: CERT_REQUIRED"
        )
    # This order is necessary: a context that checks host names refuses CERT_NONE.
    context.check_hostname = check_hostname
    context.verify_mode = mode


def _set_versions(context: ssl.SSLContext, options: TlsOptions) -> None:
    refuse_old_tls(context)
    if options.ssl_version in {5, "PROTOCOL_TLSv1_2"}:
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    for limit in ("minimum_version", "maximum_version"):
        value = getattr(options, f"tls_{limit}")
        if value is not None:
            by_name = isinstance(value, str)
            setattr(context, limit, ssl.TLSVersion[value] if by_name else ssl.TLSVersion(value))


def _load_certificates(context: ssl.SSLContext, options: TlsOptions) -> None:
    if options.keyfile and not options.certfile:
        raise ConfigurationError("AMQP_SSL: keyfile needs the certfile that it belongs to")
    step = "certificates of the system"
    try:
        if options.ciphers:
            step = f"ciphers {options.ciphers}"
            context.set_ciphers(options.ciphers)
        if options.certfile:
            step = f"certfile {options.certfile}, keyfile {options.keyfile}"
            # Without this argument, OpenSSL would ask for a password on the terminal.
            context.load_cert_chain(options.certfile, options.keyfile, password="")
        if options.ca_certs:
            step = f"ca_certs {options.ca_certs}"
            context.load_verify_locations(options.ca_certs)
        elif context.verify_mode != ssl.CERT_NONE:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    except OSError as error:  # ssl.SSLError, or a missing file
        raise ConfigurationError(f"AMQP_SSL: {step}: {error.strerror or error}") from error

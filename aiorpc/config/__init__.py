"""
Nameko's YAML, read unchanged and decoded once into one typed value: :class:`Settings`. Also the
broker's URL, TLS, and how both are shown without secrets.

Reads files and environment variables, and nothing else: no connection, no log. It may import
``exceptions``, msgspec, PyYAML and the standard library; what few programs need (yaml, ssl,
tomllib, difflib) is imported where it is used, since ``import aiorpc`` has to be quick.
"""

from .broker_url import BrokerUrl, parse_broker_urls
from .redaction import redact_url
from .settings import (
    SerializerOptions,
    Settings,
    TlsOptions,
    from_mapping,
    load,
    parse_address,
    parse_define,
    redacted,
    resolve,
)
from .tls import ssl_context, tls_server_hostname

__all__ = [
    "BrokerUrl",
    "SerializerOptions",
    "Settings",
    "TlsOptions",
    "from_mapping",
    "load",
    "parse_address",
    "parse_broker_urls",
    "parse_define",
    "redact_url",
    "redacted",
    "resolve",
    "ssl_context",
    "tls_server_hostname",
]

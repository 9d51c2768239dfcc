"""
The configuration: Nameko's YAML, decoded once into one typed value, :class:`Settings`.

Parses the broker's URL and TLS too. Reads files and environment variables; opens no connection and
logs nothing. Imports ``exceptions`` and msgspec. ``import aiorpc`` has to be quick, so only
functions import yaml, ssl, tomllib and difflib.
"""

from .broker_url import BrokerUrl, parse_broker_urls
from .decoding import parse_address
from .loading import from_mapping, load, parse_define, resolve
from .middleware import MiddlewareEntry, read_entry
from .queues import QueueOptions, options_for
from .redaction import hide, redact_url
from .settings import SerializerOptions, Settings, TlsOptions, redacted
from .tls import ssl_context, tls_server_hostname

__all__ = [
    "BrokerUrl",
    "MiddlewareEntry",
    "QueueOptions",
    "SerializerOptions",
    "Settings",
    "TlsOptions",
    "from_mapping",
    "hide",
    "load",
    "options_for",
    "parse_address",
    "parse_broker_urls",
    "parse_define",
    "read_entry",
    "redact_url",
    "redacted",
    "resolve",
    "ssl_context",
    "tls_server_hostname",
]

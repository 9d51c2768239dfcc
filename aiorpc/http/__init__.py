"""
HTTP for services: ``@http`` methods on Starlette and uvicorn, and a gateway to other services.

An optional package: the extra ``http`` installs what it needs. ``import aiorpc`` does not load it.
"""

from __future__ import annotations

from . import requirements as _requirements  # noqa: F401  # isort: skip  # before its users
from .entrypoint import HttpEntrypoint, NamekoHttpEntrypoint, http
from .gateway import Gateway
from .requests import HttpCall, HttpRequest
from .responses import ServerSentEvent
from .server import WebServer, web_server

__all__ = [
    "Gateway",
    "HttpCall",
    "HttpEntrypoint",
    "HttpRequest",
    "NamekoHttpEntrypoint",
    "ServerSentEvent",
    "WebServer",
    "http",
    "web_server",
]

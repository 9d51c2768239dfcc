"""Pretends that OpenSSL is configured otherwise than on this machine."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

__all__ = ["permit_tls_from"]


def permit_tls_from(monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion) -> None:
    """Let new contexts permit *version* and later ones, as OpenSSL's configuration can do."""
    new = ssl.SSLContext.__new__

    def configured(cls: type[ssl.SSLContext], *args: Any, **kwargs: Any) -> ssl.SSLContext:
        context = new(cls, *args, **kwargs)
        context.minimum_version = version
        return context

    monkeypatch.setattr(ssl.SSLContext, "__new__", configured)

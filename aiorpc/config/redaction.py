"""Masks secrets in URLs and values, before people see them. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["MASK", "hide", "redact", "redact_url", "redact_urls"]

MASK = "***"

_SECRET_WORDS = frozenset({"authorization", "cred", "credential", "dsn"})
# Endings of names of secrets, also of names without a separator: DBPASS, PRIVATEKEY.
_SECRET_ENDINGS = (
    *("key", "pass", "passcode", "passphrase", "passwd", "password", "pwd"),
    *("secret", "token"),
)
_HARMLESS = frozenset({"bypass", "compass", "donkey", "hockey", "hotkey", "monkey", "turkey"})

# Not compiled here, because most processes show no configuration, and imports have to be quick.
_WORD = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+"
_SCHEME = r"[A-Za-z][\w+.-]*://"
_NEXT_URL = rf"(?<=[;,\s])(?={_SCHEME})"
# Up to the *last* @, because people forget to encode an @ in a password.
_PASSWORD = r"(?s)(://[^:@]*):.*@"
# user:password without a host, or with a # or ; in the password that hides the host
_LONE_PASSWORD = r"(?s)(://[^:@/\[]*):(?!\d*(?:[/?#;,\s]|$)).*"
_PARAMETER = r"([?&])([^=&#]+)=([^&#]*)"


def redact_url(url: str, parameters: Collection[str] | None = None) -> str:
    """
    Mask the password of a URL, and query parameters with the name of a secret, or with a name that
    is not in *parameters*.

    In a text with several URLs (``url1;url2``), mask the passwords of all. In an invalid URL, mask
    too much rather than too little.
    """
    urls: list[str] = []
    for part in re.split(_NEXT_URL, url):
        if urls and "@" not in urls[-1] and re.search(_LONE_PASSWORD, urls[-1]):
            urls[-1] += part  # the rest of a password with ;scheme:// in it
        else:
            urls.append(part)
    return "".join(_redact_one_url(each, parameters) for each in urls)


def hide(value: Any, secrets: Collection[str]) -> Any:
    """
    Mask *secrets* in each text of *value*: a text, or lists and mappings of texts. A secret of less
    than four characters is masked only where it is a word.
    """
    if isinstance(value, Mapping):
        return {hide(key, secrets): hide(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide(item, secrets) for item in value]
    if isinstance(value, str):
        for secret in sorted(secrets, key=len, reverse=True):
            pattern = re.escape(secret)
            if len(secret) < 4:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            value = re.sub(pattern, MASK, value)
    return value


def redact_urls(value: Any) -> Any:
    """Mask a URL, or a mapping of URLs. Mask other text completely: it may have a password."""
    if isinstance(value, Mapping):
        return {name: redact_urls(item) for name, item in value.items()}
    if isinstance(value, str):
        return redact_url(value) if "://" in value else MASK
    return value


def redact(name: Any, value: Any, known: Collection[str] = ()) -> Any:
    """
    Mask secrets in a value, at any depth: passwords in URLs, and values whose name has a word such
    as password, secret, token or key. Values with a ``known`` name are never secret.
    """
    if value is not None and name not in known and _is_secret_name(str(name)):
        return MASK
    if isinstance(value, Mapping):
        return {key: redact(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact("", item) for item in value]
    return redact_url(value) if isinstance(value, str) and "://" in value else value


def _redact_one_url(url: str, parameters: Collection[str] | None) -> str:
    end = len(url.rstrip("; ,\t\r\n"))
    text, separator = url[:end], url[end:]
    if "@" in text:
        text = re.sub(_PASSWORD, rf"\1:{MASK}@", text)
    else:
        text = re.sub(_LONE_PASSWORD, rf"\1:{MASK}", text)

    def redacted(match: re.Match[str]) -> str:
        unknown = parameters is not None and match[2] not in parameters
        return f"{match[1]}{match[2]}={MASK}" if unknown or _is_secret_name(match[2]) else match[0]

    return re.sub(_PARAMETER, redacted, text) + separator


def _is_secret_name(name: str) -> bool:
    words = [word.lower() for word in re.findall(_WORD, name)]
    # Check the words with their "s" too, because "pass" is not a plural.
    return any(
        word in _SECRET_WORDS or (word.endswith(_SECRET_ENDINGS) and word not in _HARMLESS)
        for word in (*words, *(word.removesuffix("s") for word in words))
    )

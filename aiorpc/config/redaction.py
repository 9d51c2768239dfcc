"""
How a configuration is shown to people: nothing secret in it. Text in, text out; imports the
standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

MASK = "***"

_SECRET_WORDS = frozenset({"authorization", "cred", "credential", "dsn"})
# Of whole words, and of those that were run together: DBPASS, PRIVATEKEY.
_SECRET_ENDINGS = (
    *("key", "pass", "passcode", "passphrase", "passwd", "password", "pwd"),
    *("secret", "token"),
)
_HARMLESS = frozenset({"bypass", "compass", "donkey", "hockey", "hotkey", "monkey", "turkey"})

# Not compiled here: that takes its time at every import, and most processes show no configuration.
_WORD = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+"
_SCHEME = r"[A-Za-z][\w+.-]*://"
_NEXT_URL = rf"(?<=[;,\s])(?={_SCHEME})"
# Up to the *last* @, since people forget to encode those in their passwords.
_PASSWORD = r"(?s)(://[^:@]*):.*@"
# user:password with the host forgotten, or cut off by a # or a ; in the password
_LONE_PASSWORD = r"(?s)(://[^:@/\[]*):(?!\d*(?:[/?#;,\s]|$)).*"
_PARAMETER = r"([?&])([^=&#]+)=([^&#]*)"


def redact_url(url: str) -> str:
    """
    A URL with ``***`` for its password and for query parameters that look like one.

    Several URLs in one string (``url1;url2``) are redacted one by one. What is no valid URL loses
    rather too much than too little.
    """
    return "".join(map(_redact_one_url, re.split(_NEXT_URL, url)))


def redact_urls(value: Any) -> Any:
    """A URL, or a mapping of URLs. Text that is no URL is masked: it may be half of one."""
    if isinstance(value, Mapping):
        return {name: redact_urls(item) for name, item in value.items()}
    if isinstance(value, str):
        return redact_url(value) if "://" in value else MASK
    return value


def redact(name: Any, value: Any, known: Collection[str] = ()) -> Any:
    """
    A value without secrets, at any depth: passwords in URLs, and whatever is named like a
    password, a secret, a token or a key. ``known`` names are never secret themselves.
    """
    if value is not None and name not in known and _is_secret_name(str(name)):
        return MASK
    if isinstance(value, Mapping):
        return {key: redact(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact("", item) for item in value]
    return redact_url(value) if isinstance(value, str) and "://" in value else value


def _redact_one_url(url: str) -> str:
    end = len(url.rstrip("; ,\t\r\n"))
    text, separator = url[:end], url[end:]
    if "@" in text:
        text = re.sub(_PASSWORD, rf"\1:{MASK}@", text)
    else:
        text = re.sub(_LONE_PASSWORD, rf"\1:{MASK}", text)
    return re.sub(_PARAMETER, _redact_parameter, text) + separator


def _redact_parameter(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}={MASK}" if _is_secret_name(match[2]) else match[0]


def _is_secret_name(name: str) -> bool:
    return any(_is_secret_word(word.lower()) for word in re.findall(_WORD, name))


def _is_secret_word(word: str) -> bool:
    # "pass" is no plural.
    return any(
        one in _SECRET_WORDS or (one.endswith(_SECRET_ENDINGS) and one not in _HARMLESS)
        for one in (word, word.removesuffix("s"))
    )

"""What the decorators of this room have to know of the methods that they decorate."""

from __future__ import annotations

import inspect
from typing import Any

from ..exceptions import ConfigurationError

__all__ = ["is_retried", "mark_retried", "require_coroutine_function"]

#: functools.wraps() hands it on to what is wrapped around the function.
_RETRIED = "_aiorpc_transaction_retry"


def require_coroutine_function(method: Any, decorator: str) -> None:
    """Refuse anything else: what it returns could not be awaited inside of *decorator*."""
    if not inspect.iscoroutinefunction(method):
        name = getattr(method, "__qualname__", type(method).__name__)
        raise ConfigurationError(
            f"@{decorator} decorates coroutine functions: make {name} `async def`"
        )


def mark_retried(method: Any) -> None:
    setattr(method, _RETRIED, True)


def is_retried(method: Any) -> bool:
    """Whether ``@transaction_retry`` stands somewhere under what decorates *method* now."""
    return getattr(method, _RETRIED, False)

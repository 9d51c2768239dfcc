"""
Finds hooks of Nameko's dependency providers, which aiorpc does not call, and names the methods that
replace them. No I/O; imports only ``exceptions``.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping

from .exceptions import ConfigurationError

__all__ = ["check"]

#: Nameko's hooks for each call. Providers of aiorpc never have methods with these names.
_OF_EACH_CALL = {
    "get_dependency": "what provide(worker_ctx) yields, or what value(worker_ctx) returns",
    "worker_setup": "provide(worker_ctx), before its yield",
    "worker_result": "provide(worker_ctx), after its yield",
    "worker_teardown": "provide(worker_ctx), in a finally around its yield",
}
#: Nameko's hooks for the container. A provider may use these names for methods of its own.
_OF_THE_CONTAINER = {
    "setup": "lifespan(host), before its yield",
    "start": "lifespan(host), before its yield",
    "stop": "lifespan(host), after its yield",
    "kill": "lifespan(host), after its yield",
}
_PAGE = "The page `Migrating from Nameko` shows a provider before and after"


def check(provider: type, methods: Collection[str], *, opens: bool) -> None:
    """
    Check the *methods* that the class *provider* defines.

    Warn about Nameko's hooks for the container, unless the class *opens* with aiorpc's methods.

    Raises:
        ConfigurationError: one of the *methods* is a hook of Nameko for each call.
    """
    if never := _moves(methods, _OF_EACH_CALL):
        raise ConfigurationError(
            f"{provider.__qualname__} has hooks of Nameko that aiorpc never calls: {never}. {_PAGE}"
        )
    if not opens and (unused := _moves(methods, _OF_THE_CONTAINER)):
        warnings.warn(
            f"{provider.__qualname__} overrides neither lifespan nor provide, and aiorpc does not "
            f"call Nameko's hooks: {unused}. {_PAGE}",
            stacklevel=3,
        )


def _moves(methods: Collection[str], hooks: Mapping[str, str]) -> str:
    return "; ".join(f"move {name} to {to}" for name, to in hooks.items() if name in methods)

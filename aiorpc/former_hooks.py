"""
Names the hooks of Nameko's dependency providers that aiorpc does not call, and where their code
belongs now. No I/O; imports ``exceptions`` only.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping

from .exceptions import ConfigurationError

__all__ = ["check"]

#: Hooks of each call. No provider of ours has methods of these names.
_OF_EACH_CALL = {
    "get_dependency": "what provide(worker_ctx) yields, or what value(worker_ctx) returns",
    "worker_setup": "provide(worker_ctx), before its yield",
    "worker_result": "provide(worker_ctx), after its yield",
    "worker_teardown": "provide(worker_ctx), in a finally around its yield",
}
#: Hooks of the container. A provider may have methods of these names for its own use.
_OF_THE_CONTAINER = {
    "setup": "lifespan(host), before its yield",
    "start": "lifespan(host), before its yield",
    "stop": "lifespan(host), after its yield",
    "kill": "lifespan(host), after its yield",
}
_PAGE = "The page `From Nameko` shows a provider before and after"


def check(provider: type, methods: Collection[str], *, opens: bool) -> None:
    """
    Check the *methods* that the class *provider* defines.

    Warns about Nameko's hooks of the container, unless the class *opens* something in the new way.

    Raises:
        ConfigurationError: one is a hook of Nameko's for each call.
    """
    if never := _moves(methods, _OF_EACH_CALL):
        raise ConfigurationError(
            f"{provider.__qualname__} has hooks of Nameko's that aiorpc never calls: {never}. "
            f"{_PAGE}"
        )
    if not opens and (unused := _moves(methods, _OF_THE_CONTAINER)):
        warnings.warn(
            f"{provider.__qualname__} overrides neither lifespan nor provide, and aiorpc does not "
            f"call Nameko's hooks: {unused}. {_PAGE}",
            stacklevel=3,
        )


def _moves(methods: Collection[str], hooks: Mapping[str, str]) -> str:
    return "; ".join(f"move {name} to {to}" for name, to in hooks.items() if name in methods)

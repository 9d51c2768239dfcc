"""Finds service classes by ``MODULE[:Class]``. Imports the user's modules."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from ..exceptions import ConfigurationError
from ..extensions import entrypoints_of, hosted_class, providers_of, service_name_of
from ..logs import logger

__all__ = ["UserCodeFailed", "load_services", "look_in_current_directory"]

log = logger("aiorpc.cli")


class UserCodeFailed(Exception):
    """The user's own code raised ``__cause__``."""


def look_in_current_directory() -> None:
    """Put the current directory on Python's path, as ``python -m`` does."""
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)


def load_services(targets: Iterable[str]) -> list[type]:
    """
    Return the service classes that *targets* name, without duplicates, in order.

    ``module:Class`` names one class. ``module`` names all its classes with a name and entrypoints,
    also imported classes, as in Nameko. A class that the module imports only for
    ``RpcProxy(Class)`` or for a Gateway is left out, because the user did not ask to host it.
    ``module:gateway`` names a Gateway, and ``module`` all its Gateways too.

    Raises:
        ConfigurationError: a module or a class does not exist, or a class is not a service.
        UserCodeFailed: importing the module raised.
    """
    services: dict[type, None] = {}
    callers: dict[type, type] = {}
    for target in targets:
        services.update(dict.fromkeys(_services_of(target, callers)))
    for called, caller in callers.items():
        if called not in services:
            names = called.__name__, caller.__name__, called.__module__, called.__qualname__
            log.info(
                "%s does not run, because %s only calls it: add %s:%s to run it",
                *names,
            )
    return list(services)


def _services_of(target: str, callers: dict[type, type]) -> list[type]:
    """Return the services of *target*. Add services that it only calls to *callers*."""
    module_name, colon, class_name = target.partition(":")
    if module_name.endswith(".py") or os.sep in module_name:
        dotted = os.path.normpath(module_name.removesuffix(".py")).replace(os.sep, ".")
        raise ConfigurationError(
            f"{module_name} is a path, not a module: write {dotted}{colon}{class_name}"
        )
    module = _import(module_name)
    if colon:
        return [_class_of(module, class_name)]
    services = _all_services_of(module)
    only_called = _only_called(module, services)
    callers.update(only_called)
    return [cls for cls in services if cls not in only_called]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise ConfigurationError(_no_module(name, missing)) from None
        is_name = all(part.isidentifier() for part in name.split("."))
        if isinstance(error, ValueError | TypeError) and not is_name:
            raise ConfigurationError(
                f"{name!r} is not the name of a module: write package.module, as in Python"
            ) from None
        reason = f"{type(error).__name__}: {error}"
        raise UserCodeFailed(f"importing {name} failed: {reason}") from error


def _no_module(name: str, missing: str) -> str:
    parent = missing.rpartition(".")[0]
    where = f"in package {parent}" if parent else f"in {os.getcwd()} or on Python's path"
    return f"no module named {missing} {where}" + (f" (for {name})" if missing != name else "")


def _class_of(module: ModuleType, name: str) -> type:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if (hosted := hosted_class(found)) is not None:
        return hosted
    if found is None:
        raise ConfigurationError(f"{module.__name__} has no class {name!r}{_has(module)}")
    if not inspect.isclass(found):
        raise ConfigurationError(
            f"{module.__name__}:{name} is not a class but a value of type {type(found).__name__}"
            f"{_has(module)}"
        )
    service_name_of(found)  # raises if the class has no name
    if not entrypoints_of(found):
        raise ConfigurationError(
            f"{module.__name__}:{name} has no entrypoint: mark a method with @rpc, for example"
        )
    return found


def _all_services_of(module: ModuleType) -> list[type]:
    fired = _classes_with_entrypoints(module)
    fired += filter(None, map(hosted_class, vars(module).values()))
    services = [cls for cls in fired if getattr(cls, "name", None)]
    if services:
        return services
    if fired:
        service_name_of(fired[0])  # raises, and says what to do
    raise ConfigurationError(
        f"{module.__name__} has no service: a service is a class with a `name` and a method with "
        "@rpc or another entrypoint"
    )


def _only_called(module: ModuleType, services: Sequence[type]) -> dict[type, type]:
    """
    Return the *services* that *module* only imports to call them, each with its calling class.

    A module that defines no service collects services to run, so the result is empty.
    """
    hosted = [hosted_class(each) for each in vars(module).values()]
    own = [cls for cls in services if cls.__module__ == module.__name__ or cls in hosted]
    if not own or len(own) == len(services):
        return {}
    from ..dependencies.proxies import RpcProxy

    called = {
        provider.interface: cls
        for cls in own
        for provider in providers_of(cls)
        if isinstance(provider, RpcProxy)
    }
    called |= {each: cls for cls in own for each in getattr(cls, "__aiorpc_calls__", ())}
    return {cls: called[cls] for cls in services if cls not in own and cls in called}


def _classes_with_entrypoints(module: ModuleType) -> list[type]:
    classes = [value for value in vars(module).values() if inspect.isclass(value)]
    return [cls for cls in dict.fromkeys(classes) if entrypoints_of(cls)]


def _has(module: ModuleType) -> str:
    names = [cls.__name__ for cls in _classes_with_entrypoints(module)]
    return f"; it has {', '.join(names)}" if names else ""

"""From ``MODULE[:Class]`` on a command line to service classes. Imports the user's modules."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from ..exceptions import ConfigurationError
from ..extensions import entrypoints_of, providers_of, service_name_of

__all__ = ["UserCodeFailed", "load_services", "look_in_current_directory"]

log = logging.getLogger("aiorpc.cli")


class UserCodeFailed(Exception):
    """The user's own code raised; ``__cause__`` is what."""


def look_in_current_directory() -> None:
    """Let modules of the current directory be imported, as ``python -m`` does."""
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)


def load_services(targets: Iterable[str]) -> list[type]:
    """
    The service classes that *targets* name, each once, in their order.

    ``module:Class`` is that class; ``module`` is every class in it that has a name and entrypoints,
    imported ones included, as in Nameko. But for those that it imports to call them, by
    ``RpcProxy(Class)``: a second copy of somebody else's service is nothing to start unasked.

    Raises:
        ConfigurationError: there is no such module or class, or it is no service.
        UserCodeFailed: importing the module raised.
    """
    services: dict[type, None] = {}
    callers: dict[type, type] = {}
    for target in targets:
        services.update(dict.fromkeys(_services_of(target, callers)))
    for called, caller in callers.items():
        if called not in services:
            log.info(
                "%s is called by %s and not run: name %s:%s to run it",
                called.__name__,
                caller.__name__,
                called.__module__,
                called.__qualname__,
            )
    return list(services)


def _services_of(target: str, callers: dict[type, type]) -> list[type]:
    """What *target* names; in *callers* is noted what it leaves out, and who calls that."""
    module_name, colon, class_name = target.partition(":")
    if module_name.endswith(".py") or os.sep in module_name:
        dotted = os.path.normpath(module_name.removesuffix(".py")).replace(os.sep, ".")
        raise ConfigurationError(
            f"{module_name} is a path, and a module is wanted: write {dotted}{colon}{class_name}"
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
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UserCodeFailed(_import_failed(name, error)) from error
        raise ConfigurationError(_no_module(name, error.name)) from None
    except (ValueError, TypeError) as error:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigurationError(
                f"{name!r} is no name of a module: write it as in Python, package.module"
            ) from None
        raise UserCodeFailed(_import_failed(name, error)) from error
    except Exception as error:
        raise UserCodeFailed(_import_failed(name, error)) from error


def _import_failed(name: str, error: Exception) -> str:
    return f"{name} cannot be imported: {type(error).__name__}: {error}"


def _no_module(name: str, missing: str) -> str:
    parent = missing.rpartition(".")[0]
    where = f"in package {parent}" if parent else f"in {os.getcwd()} or on Python's path"
    return f"no module named {missing} {where}" + (f" (for {name})" if missing != name else "")


def _class_of(module: ModuleType, name: str) -> type:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ConfigurationError(f"{module.__name__} has no class {name!r}{_has(module)}")
    if not inspect.isclass(found):
        raise ConfigurationError(
            f"{module.__name__}:{name} is no class but a value of type {type(found).__name__}"
            f"{_has(module)}"
        )
    service_name_of(found)  # raises if it has none
    if not entrypoints_of(found):
        raise ConfigurationError(
            f"{module.__name__}:{name} has no entrypoint: mark a method with @rpc, for example"
        )
    return found


def _all_services_of(module: ModuleType) -> list[type]:
    fired = _classes_with_entrypoints(module)
    services = [cls for cls in fired if getattr(cls, "name", None)]
    if services:
        return services
    if fired:
        service_name_of(fired[0])  # raises, and says what to do
    raise ConfigurationError(
        f"{module.__name__} has no service: that is a class with a `name` and with a method marked "
        "@rpc or by another entrypoint"
    )


def _only_called(module: ModuleType, services: Sequence[type]) -> dict[type, type]:
    """
    Those of *services* that *module* imports since one of its own calls them, and that one. Where
    all are imported, the module gathers what is to be run.
    """
    own = [cls for cls in services if cls.__module__ == module.__name__]
    if not own or len(own) == len(services):
        return {}
    from ..dependencies.proxies import RpcProxy

    called = {
        provider.interface: cls
        for cls in own
        for provider in providers_of(cls)
        if isinstance(provider, RpcProxy)
    }
    return {cls: called[cls] for cls in services if cls not in own and cls in called}


def _classes_with_entrypoints(module: ModuleType) -> list[type]:
    classes = [value for value in vars(module).values() if inspect.isclass(value)]
    return [cls for cls in dict.fromkeys(classes) if _has_entrypoints(cls)]


def _has_entrypoints(cls: type) -> bool:
    try:
        return bool(entrypoints_of(cls))
    except Exception:  # noqa: BLE001 - a class of anybody's, whose attributes may do anything
        return False


def _has(module: ModuleType) -> str:
    names = [cls.__name__ for cls in _classes_with_entrypoints(module)]
    return f"; it has {', '.join(names)}" if names else ""

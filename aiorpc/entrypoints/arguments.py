"""Checks the arguments of an entrypoint's method by its signature. Pure functions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..context import EMPTY
from ..exceptions import ConfigurationError, IncorrectSignature
from ..extensions import Entrypoint, Host
from ..wire.arguments import Arguments

__all__ = ["arguments_of", "require_call"]


def arguments_of(entrypoint: Entrypoint, host: Host, *, validate: bool) -> Arguments:
    """
    Return an object that checks and converts the arguments of the method of *entrypoint*.

    Args:
        validate: check the arguments by ``VALIDATE_ARGUMENTS``; otherwise only the signature.

    Raises:
        ConfigurationError: the method takes no ``self``.
    """
    method = getattr(host.service_cls, entrypoint.method_name)
    declared = inspect.getattr_static(host.service_cls, entrypoint.method_name)
    name = f"{host.service_name}.{entrypoint.method_name}"
    skip_self = not isinstance(declared, staticmethod)
    if skip_self and inspect.isfunction(method):
        code = method.__code__
        if not (code.co_argcount or code.co_flags & inspect.CO_VARARGS):
            raise ConfigurationError(
                f"{name} takes no `self`: write `def {entrypoint.method_name}(self)`, or put "
                "@staticmethod on top"
            )
    mode = host.settings.validate_arguments if validate else "off"
    return Arguments(method, skip_self=skip_self, mode=mode, name=name)


def require_call(
    entrypoint: Entrypoint,
    host: Host,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] = EMPTY,
) -> None:
    """
    Check that the method of *entrypoint* accepts *args* and *kwargs*.

    Raises:
        ConfigurationError: it does not.
    """
    try:
        arguments_of(entrypoint, host, validate=False).bind(args, dict(kwargs))
    except IncorrectSignature as exc:
        raise ConfigurationError(
            f"{host.service_name}.{entrypoint.method_name} does not take what "
            f"{type(entrypoint).__name__} calls it with, {len(args) + len(kwargs) or 'no'} "
            f"argument(s): {exc}. Change the method, or the arguments of the decorator"
        ) from None

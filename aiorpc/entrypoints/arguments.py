"""Checks the arguments of an entrypoint's method by its annotations. Pure functions."""

from __future__ import annotations

import inspect

from ..extensions import Entrypoint, Host
from ..wire.arguments import Arguments

__all__ = ["arguments_of"]


def arguments_of(entrypoint: Entrypoint, host: Host, *, validate: bool) -> Arguments:
    """
    Return an object that checks and converts the arguments of the method of *entrypoint*.

    Args:
        validate: check the arguments by ``VALIDATE_ARGUMENTS``; otherwise only the signature.
    """
    declared = inspect.getattr_static(host.service_cls, entrypoint.method_name)
    return Arguments(
        getattr(host.service_cls, entrypoint.method_name),
        skip_self=not isinstance(declared, staticmethod),
        mode=host.settings.validate_arguments if validate else "off",
        name=f"{host.service_name}.{entrypoint.method_name}",
    )

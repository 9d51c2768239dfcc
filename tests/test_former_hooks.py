"""Hooks of Nameko's that a provider kept: aiorpc names the place where their code belongs."""

from __future__ import annotations

import warnings
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from aiorpc import ConfigurationError, DependencyProvider
from aiorpc.sqlalchemy import DatabaseSession


def provider(*methods: str, base: type = DependencyProvider, **overrides: Any) -> type:
    """Make a class with these methods."""
    hooks = {name: lambda self, *args: None for name in methods}
    return type(base)("Session", (base,), {**hooks, **overrides})


@pytest.mark.parametrize(
    ("hook", "place"),
    [
        ("get_dependency", r"what provide\(worker_ctx\) yields"),
        ("worker_setup", r"provide\(worker_ctx\), before its yield"),
        ("worker_result", r"provide\(worker_ctx\), after its yield"),
        ("worker_teardown", r"provide\(worker_ctx\), in a finally around its yield"),
    ],
)
@pytest.mark.parametrize("base", [DependencyProvider, DatabaseSession])
def test_a_hook_of_each_call_is_an_error_that_names_the_new_place(
    hook: str, place: str, base: type
) -> None:
    provide = {"provide": lambda self, worker_ctx: nullcontext()}
    with pytest.raises(ConfigurationError, match=rf"Session has .*: move {hook} to {place}"):
        provider(hook, base=base, **provide)


def test_the_error_names_every_hook_and_those_of_a_mixin() -> None:
    mixin = type("Mixin", (), {"worker_result": lambda self, *args: None})
    with pytest.raises(ConfigurationError, match=r"move get_dependency .*; move worker_result "):
        type("Session", (mixin, DependencyProvider), {"get_dependency": lambda self, ctx: None})


@pytest.mark.parametrize("hook", ["setup", "start", "stop", "kill"])
def test_a_hook_of_the_container_warns_where_the_class_is_made(hook: str) -> None:
    with pytest.warns(UserWarning, match=rf"move {hook} to lifespan\(host\), ") as caught:
        cls = provider(hook, value=lambda self, worker_ctx: None)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        provider(base=cls)  # a subclass does not repeat the warning


@pytest.mark.parametrize("opener", ["lifespan", "provide"])
def test_a_provider_in_the_new_way_may_have_methods_of_these_names(opener: str) -> None:
    @asynccontextmanager
    async def override(self: Any, given: Any) -> Any:
        yield

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls = provider("setup", "start", "stop", "kill", **{opener: override})
        provider("start", base=cls)

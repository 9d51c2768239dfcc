"""``MIDDLEWARE``: what it loads, and what its errors say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from aiorpc import ClusterRpcProxy, ConfigurationError, ServiceContainer, ServiceRunner, rpc
from aiorpc.config import from_mapping, load, resolve
from aiorpc.installed import middleware_of
from tests.support.recorded import Record, passes

HERE = "tests.support.recorded"


class Service:
    name = "installed"

    @rpc
    async def method(self) -> None: ...


def test_an_entry_is_a_function_or_a_class_with_or_without_options(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"MIDDLEWARE:\n- {HERE}:passes\n- {HERE}:Record\n- {HERE}:Record:\n    fails: no\n"
        f"- {HERE}:Record:\n"
    )
    function, *made = middleware_of(load(path))
    assert function is passes
    assert [type(each) for each in made] == [Record] * 3


def test_all_that_share_settings_share_the_middleware() -> None:
    settings = from_mapping({"MIDDLEWARE": [f"{HERE}:Record"]})
    assert middleware_of(settings) == middleware_of(resolve(settings))
    changed = settings.with_defines({"max_workers": 1})
    assert middleware_of(changed) != middleware_of(settings)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ("a.b:c", "MIDDLEWARE must be list of str or mapping, got str 'a.b:c'"),
        ([5], "MIDDLEWARE[0] must be str or mapping, got int 5"),
        (
            ["a.b"],
            "MIDDLEWARE[0] must be module:name, such as aiorpc.middleware.logging:json_lines",
        ),
        (["a.b:c", "a b:c"], "MIDDLEWARE[1] must be module:name, such as"),
        (
            [{"a:b": {}, "x": 1}],
            "MIDDLEWARE[0] must be module:name, or a mapping of one module:name",
        ),
        ([{"a:b": 5}], "MIDDLEWARE[0]: the options of a:b must be a mapping, got int"),
    ],
)
def test_an_entry_of_another_form_is_an_error(entries: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match="^config: " + re.escape(said)):
        from_mapping({"MIDDLEWARE": entries})


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("no.such:name", "no.such:name cannot be imported: no module named no. Check the spelling"),
        (f"{HERE}:record", f"{HERE} has no record (did you mean 'Record'?)"),
        (f"{HERE}:no_function", "is no middleware but a value of type int"),
        (f"{HERE}:of_one_argument", "cannot be called as a middleware (too many positional"),
        ({f"{HERE}:no_function": {}}, "no_function, of type int, takes no options: remove them"),
        ({f"{HERE}:passes": {"x": 1}}, "passes, of type function, takes no options: remove them"),
        ({f"{HERE}:Record": {"fial": 1}}, "keyword argument 'fial'. Its options: fails"),
        ({"builtins:dict": {}}, "builtins:dict is no middleware but a value of type dict"),
        ({f"{HERE}:Record": {"fails": True}}, "Record cannot be made: ValueError: boom"),
        ("aiorpc.middleware.retries:retries", "argument: 'methods'"),
        ("tests.support.broken_module:x", "importing tests.support.broken_module failed: RuntimeE"),
    ],
)
def test_what_cannot_be_loaded_is_an_error_before_anything_starts(
    entry: Any, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import tests.support

    (tmp_path / "broken_module.py").write_text("raise RuntimeError('boom')")
    monkeypatch.setattr(tests.support, "__path__", [*tests.support.__path__, str(tmp_path)])
    config = {"AMQP_URI": "memory://", "MIDDLEWARE": [entry]}
    for make in (
        lambda: ServiceContainer(Service, config),
        lambda: ServiceRunner(Service, config=config),
        lambda: ClusterRpcProxy(config),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(said)) as caught:
            make()
        assert str(caught.value).startswith("config: MIDDLEWARE[0]: ")

"""From what users pass as config to settings: a URL, a mapping, a file, ``KEY=VALUE``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import aiorpc
import aiorpc.config
from aiorpc.config import (
    Settings,
    load,
    parse_define,
    resolve,
)
from aiorpc.exceptions import ConfigurationError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_workers=3", ("max_workers", 3)),
        ("FLAG", ("FLAG", True)),
        ("A.B=1", ("A.B", 1)),
        ("URL=amqp://h/?x=1", ("URL", "amqp://h/?x=1")),
        ("LIST=[1, two]", ("LIST", [1, "two"])),
        ("EMPTY=", ("EMPTY", None)),
        ("QUOTED='5'", ("QUOTED", "5")),
        ("FROM=${A:b}", ("FROM", "b")),
    ],
)
def test_values_of_defines_are_yaml(text, expected):
    assert parse_define(text, {}) == expected


def test_a_key_is_needed():
    with pytest.raises(ConfigurationError, match="KEY=VALUE") as caught:
        parse_define("=s3cret")
    assert "s3cret" not in str(caught.value)


def test_defines_win_over_the_file(read):
    settings = read("max_workers: 3\nHEARTBEAT: 5\nMINE: 1\n")
    changed = settings.with_defines({"max_workers": 4, "MINE": 2, "A.B": 1})
    assert (changed.max_workers, changed.heartbeat) == (4, 5)
    assert changed.raw == {"max_workers": 4, "HEARTBEAT": 5, "MINE": 2, "A.B": 1}
    assert settings.max_workers == 3


def test_defines_keep_what_a_program_set():
    settings = Settings(max_workers=3).with_defines({"HEARTBEAT": 5})
    assert (settings.max_workers, settings.heartbeat) == (3, 5)


def test_a_value_that_a_define_replaces_is_not_decoded(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("AMQP_URI: ${NOT_SET}\nmax_workers: 3\nAMQP_SSL: {zzz: 1}\n")
    settings = load(path, {}, replaced=["AMQP_URI", "AMQP_SSL"])
    settings = settings.with_defines({"AMQP_URI": "amqp://h/?cafile=x", "AMQP_SSL": True})
    assert settings.broker_urls[0].scheme == "amqps"
    assert (settings.max_workers, list(settings.raw)) == (
        3,
        ["AMQP_URI", "max_workers", "AMQP_SSL"],
    )


def test_null_restores_the_default(read):
    assert read("max_workers: 3").with_defines({"max_workers": None}).max_workers == 100


def test_errors_name_the_option_and_not_the_file(read):
    with pytest.raises(ConfigurationError, match=r"^--define: max_workers must be int >= 1"):
        read("max_workers: 3").with_defines({"max_workers": "x"})
    with pytest.raises(ConfigurationError, match=r"^--broker: AMQP_URI "):
        Settings().with_defines({"AMQP_URI": "x"}, source="--broker")


def test_a_url_is_the_broker():
    assert resolve("memory://tests").broker_urls[0].host == "tests"


def test_a_mapping_is_decoded():
    assert resolve({"AMQP_URI": "memory://", "max_workers": 2}).max_workers == 2


def test_settings_stay_as_they_are():
    settings = Settings()
    assert resolve(settings) is settings


def test_none_means_the_defaults():
    assert resolve(None) == Settings()


def test_a_path_is_loaded(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("max_workers: 2")
    assert resolve(path).max_workers == 2
    assert resolve(str(path)).max_workers == 2


def test_text_that_is_neither_url_nor_file_is_an_error():
    with pytest.raises(ConfigurationError, match=r"cannot read .*amqp://guest"):
        resolve("localhost")


def test_any_other_type_is_refused():
    with pytest.raises(ConfigurationError, match=r"config must be a URL .* got int"):
        resolve(3)


def test_a_wrong_url_is_an_error():
    with pytest.raises(ConfigurationError, match="scheme 'http' is not one of amqp, pyamqp"):
        resolve("http://u:p@h")


def test_importing_config_loads_no_module_that_few_programs_need():
    # In a new interpreter, and beneath an empty package, since aiorpc itself imports asyncio.
    script = f"""
import sys, types
sys.modules["aiorpc"] = package = types.ModuleType("aiorpc")
package.__path__ = [{str(Path(aiorpc.__file__).parent)!r}]
import aiorpc.config
print(*sorted({{"yaml", "tomllib", "difflib", "asyncio"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []

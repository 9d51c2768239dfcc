"""YAML and TOML files, and environment variables in them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st

from aiorpc.config import (
    load,
    parse_define,
)
from aiorpc.exceptions import ConfigurationError

"""Nameko's rules, measured: a plain scalar is substituted, then read as YAML."""


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        ("${NUMBER}", 42),
        ("${TEXT}", "hello"),
        ("a${TEXT}b", "ahellob"),
        ("${TEXT}-${NUMBER}", "hello-42"),
        ("${MAPPING}", {"a": [1]}),
        ("${EMPTY}", None),
        ("${EMPTY:default}", None),
        ("${MISSING}", None),
        ("${MISSING:}", None),
        ("${MISSING:7}", 7),
        ("${MISSING:[1, 2]}", [1, 2]),
        ("${MISSING:redis://h:6379/0}", "redis://h:6379/0"),
        ("${MISSING:${NUMBER}}", 42),
        ("${MISSING:${ALSO_MISSING:x}y}", "xy"),
        ("${NUMBER:${MISSING}}", 42),
        ("${INDIRECT}", "hello!"),
        ("${ITSELF}", "${ITSELF}"),
        ("'${NUMBER}'", "${NUMBER}"),
        ('"${NUMBER}"', "${NUMBER}"),
        ('!env_var "${NUMBER}"', 42),
        ('!env_var "${MISSING:{a: {b: 1}}}"', {"a": {"b": 1}}),
        ('!env_var "nothing"', "nothing"),
        ('!raw_env_var "${NUMBER}"', "42"),
        ('!raw_env_var "${MISSING:007}"', "007"),
        ('!raw_env_var "${INDIRECT}"', "${TEXT}!"),
        ("${NUMBER", "${NUMBER"),
        ("${two words}", "${two words}"),
        ("$NUMBER", "$NUMBER"),
        ("100$", "100$"),
    ],
)
def test_variables_in_scalars_are_substituted(read, scalar, expected):
    settings = read(
        f"MINE: {scalar}",
        NUMBER="42",
        TEXT="hello",
        MAPPING="{a: [1]}",
        EMPTY="",
        INDIRECT="${TEXT}!",
        ITSELF="${ITSELF}",
    )
    assert settings.raw["MINE"] == expected


def test_keys_and_nested_values(read):
    settings = read("DB_URIS:\n  ${SERVICE}:Base: ${URL}\n", SERVICE="x", URL="sqlite://")
    assert settings.db_uris == {"x:Base": "sqlite://"}


def test_a_value_from_the_environment_has_yaml_s_type(read):
    assert read("max_workers: ${WORKERS:10}", WORKERS="3").max_workers == 3
    assert read("max_workers: ${WORKERS:10}").max_workers == 10
    assert read("CONFIRM_REPLIES: ${YES}", YES="true").confirm_replies is True


def test_the_process_environment_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("AIORPC_TEST_WORKERS", "5")
    path = tmp_path / "config.yaml"
    path.write_text("max_workers: ${AIORPC_TEST_WORKERS}")
    assert load(path).max_workers == 5


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("AMQP_URI: '${URL}'", "AMQP_URI holds"),
        ('AMQP_URI: "amqp://${HOST:localhost}/"', "AMQP_URI holds"),
        ('DB_URIS: {"x:Base": "${URL}"}', "DB_URIS['x:Base'] holds"),
        ('max_workers: "${N}"', "max_workers must be int >= 1, got a str that holds"),
    ],
)
def test_an_error_about_a_variable_in_quotes_names_the_remedy(complaint, text, path):
    said = complaint(text, URL="amqp://there/", N="3")
    assert f"config.yaml: {path} a variable, ${{NAME}}, that was not substituted" in said
    assert 'remove the quotes around it, or write !env_var "${NAME}"' in said


def test_variables_that_go_in_a_circle_are_an_error(complaint):
    text = complaint("MINE: ${A}", A="x${B}", B="y${A}")
    assert "refer to each other" in text


def test_a_variable_that_is_not_valid_yaml_names_the_remedy(complaint):
    text = complaint("MINE: ${A}", A="@secret")
    assert "!raw_env_var" in text
    assert "secret" not in text


@given(st.text(alphabet="${}:ab 1'\"!", max_size=40))
def test_any_text_is_a_value_or_a_clear_error(text):
    with contextlib.suppress(ConfigurationError):
        parse_define(f"K={text}", {"a": "${b}", "b": "1"})


def test_an_empty_file_is_all_defaults(read):
    assert read("").raw == {}
    assert read("# nothing yet\n").max_workers == 100


@pytest.mark.parametrize("text", ["- 1\n", "hello\n"])
def test_a_file_without_a_mapping_is_refused(complaint, text):
    assert "must hold a mapping of keys to values, got " in complaint(text)


def test_bad_yaml_names_the_place(complaint):
    assert "config.yaml is not valid YAML at line 2, column 2" in complaint("a: [b\nc: }")


@pytest.mark.parametrize(
    "text",
    ["a: x\x07y", "a: !!timestamp foo", "a: !!bool foo", 'a: !!int ""', "a: &x {b: *x}"],
)
def test_odd_yaml_is_a_configuration_error(complaint, text):
    assert complaint(text).partition("config.yaml")[2].startswith((" is not valid", ": a value"))


def test_foreign_yaml_tags_are_refused(complaint):
    assert "could not determine a constructor" in complaint("a: !!python/object:os.system x")


def test_an_error_names_a_missing_file(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot read .*nowhere\.yaml: No such file"):
        load(tmp_path / "nowhere.yaml")


def test_an_error_names_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(ConfigurationError, match="not UTF-8 at byte 3"):
        load(path)


def test_toml_is_read_by_its_suffix(read):
    settings = read(
        'max_workers = 3\nHEARTBEAT = "${BEAT:5}"\nMINE = "plain"\n'
        '[DB_URIS]\n"x:Base" = "sqlite:///${NAME}"\n',
        name="config.toml",
        NAME="base",
    )
    assert (settings.max_workers, settings.heartbeat) == (3, 5)
    assert settings.raw["MINE"] == "plain"
    assert settings.db_uris == {"x:Base": "sqlite:///base"}


def test_bad_toml_names_the_file(read):
    with pytest.raises(ConfigurationError, match=r"config\.toml is not valid TOML: .*line 1"):
        read("max_workers = ]", name="config.toml")

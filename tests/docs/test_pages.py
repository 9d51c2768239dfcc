"""The lists of the pages are complete: keys, errors, imports of the migration, the public API."""

from __future__ import annotations

import builtins
import importlib
import re
from pathlib import Path

import msgspec
import pytest
import yaml

import aiorpc
from aiorpc import exceptions
from aiorpc.config.decoding import describe
from aiorpc.config.settings import fields
from aiorpc.http import problems

from .markdown import PAGES, ROOT, table_rows

DOCS = ROOT / "docs"
KEYS = dict(fields())
#: Settings that have another name in the configuration.
USED_AS = {
    "accept": "accepted",
    "amqp_uri": "broker_urls",
    "prefetch_count": "prefetch",
    "sync_workers": "sync_threads",
}


def code(cell: str) -> str:
    """`` `KEY` `` -> ``KEY``"""
    return cell.removeprefix("`").removesuffix("`")


KEY_ROWS = {
    code(row[0]): row
    for row in table_rows(DOCS / "configuration.md")
    if len(row) == 4 and row[0] != "Key"
}


def test_the_configuration_page_has_exactly_the_keys_that_exist() -> None:
    assert set(KEY_ROWS) == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_the_configuration_page_has_each_keys_default_and_values(key: str) -> None:
    field = KEYS[key]
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    _, told_default, told_values, _ = KEY_ROWS[key]
    assert yaml.safe_load(code(told_default)) == default
    values = re.sub(
        r"mapping with (ca_certs[\w, ]*?(?= or)|passive[\w, ]*)", "mapping", describe(field.type)
    )
    assert told_values == values


@pytest.mark.parametrize("key", KEYS)
def test_a_key_without_effect_says_so(key: str) -> None:
    name = KEYS[key].name
    sources = (path for path in Path(aiorpc.__file__).parent.rglob("*.py"))
    words = re.compile(rf"\b({name}|{USED_AS.get(name, name)}|{key})\b")
    used = any(
        words.search(path.read_text(encoding="utf-8"))
        for path in sources
        if path.name not in {"settings.py", "decoding.py"}
    )
    own = key == "EXTRA_KEYS"  # used only while it is decoded
    assert used or own or "no effect" in KEY_ROWS[key][3].lower()
    assert not (used and "no effect" in KEY_ROWS[key][3].lower())


def test_the_table_of_loggers_has_each_logger_and_whether_it_has_errors() -> None:
    code_has: dict[str, bool] = {}
    for path in sorted(Path(aiorpc.__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        made = re.search(r"^log = logger\((.+)\)$", text, re.MULTILINE)
        if made is not None:
            name = made[1].strip('"') if made[1] != "__name__" else "aiorpc.transports"
            assert made[1] != "__name__" or "transports" in path.parts, path
            has_errors = re.search(r"\blog\.(error|exception)\(", text) is not None
            code_has[name] = code_has.get(name, False) or has_errors
    del code_has["aiorpc"]  # the shell only sets its level
    rows = {
        row[0].split("`")[1]: row[2]
        for row in table_rows(DOCS / "logs.md")
        if len(row) == 3 and row[0].startswith("`aiorpc.")
    }
    assert {name: errors != "-" for name, errors in rows.items()} == code_has


def test_every_error_is_on_the_page_of_errors() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    errors = {name for name in exceptions.__all__ if isinstance(getattr(exceptions, name), type)}
    families = {"AioRpcError", "RpcError"}
    missing = {name for name in errors - families if f"`{name}`" not in page}
    assert not missing


def test_the_page_of_errors_names_only_errors_that_exist_and_that_a_test_expects() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`([A-Z][a-z]\w+)`", page):
        assert name in aiorpc.__all__ or hasattr(builtins, name), name
        if name in set(exceptions.__all__) - {"BadRequest"}:
            assert re.search(rf"raises\([^)]*\b{name}\b", tests), name


def test_the_page_of_errors_has_the_status_and_the_code_of_each_error() -> None:
    rows = [row for row in table_rows(DOCS / "errors.md") if row[0].isdecimal()]
    assert {code(row[1]): int(row[0]) for row in rows} == problems.STATUSES
    named = {name: int(row[0]) for row in rows for name in re.findall(r"`([A-Z]\w+)`", row[2])}
    for name in exceptions.__all__:
        kind = getattr(exceptions, name)
        if isinstance(kind, type):
            status = problems.problem_of(kind("x")).status
            assert named.get(name, problems.STATUSES["internal"]) == status, name


def test_the_api_reference_has_every_public_name() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. [\w:]+:: aiorpc\.(\w+)(?:\(\))?$", page, re.MULTILINE))
    assert documented >= set(aiorpc.__all__) - {"__version__"}


def test_every_name_of_the_api_reference_exists() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in re.findall(r"^\.\. auto(?!module)\w+:: ([\w.]+)", page, re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_api_reference_has_every_name_that_the_pages_use() -> None:
    reference = (DOCS / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. [\w:]+:: ([\w.]+)", reference, re.MULTILINE)
    used = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"from (aiorpc[\w.]*) import (\([^)]*\)|[\w, ]+)", text):
            used |= {f"{found[1]}.{name}" for name in re.findall(r"\w+", found[2])}
        used |= {name.replace(":", ".") for name in re.findall(r"\baiorpc\.[\w.]+:\w+", text)}
    used.discard("aiorpc.middleware.logging.json_line")  # misspelt, to show the error
    assert not {
        name
        for name in used
        if not any(each == name or each.startswith(f"{name}.") for each in documented)
    }


#: ``from aiorpc.x import a, b`` and ``aiorpc.x.a``, in the tables of the page.
_IMPORT = re.compile(r"from (?P<module>aiorpc[\w.]*) import (?P<names>[\w, ]+)")


def test_the_imports_of_the_migration_page_exist() -> None:
    text = "\n".join(" ".join(row) for row in table_rows(DOCS / "from-nameko.md"))
    found = [*_IMPORT.finditer(text)]
    assert len(found) > 10
    for match in found:
        module = importlib.import_module(match["module"])
        for name in match["names"].split(", "):
            assert hasattr(module, name), f"{match[0]}: there is no {name}"


def test_each_decision_has_a_number_of_its_own_which_its_title_repeats() -> None:
    pages = sorted((DOCS / "adr").glob("0*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert len(set(numbers)) == len(numbers)
    for page, number in zip(pages, numbers, strict=True):
        assert page.read_text().startswith(f"# {number}. "), page.name

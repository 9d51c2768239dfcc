"""Checks that the commands and options in the pages' command lines exist. Runs no command."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib

from aiorpc.cli.app import command_of, parser_of

from .markdown import ROOT

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
#: Commands of other projects, which are not checked.
_OTHERS = frozenset(
    {".", "complete", "docker", "cd", "curl", "git", "python", "python3", "pytest", "uvicorn"}
)


def check_command(words: list[str], place: str) -> None:
    """
    Check ``aiorpc`` commands with their options, ``make`` targets, and extras of ``pip install``.

    Raises:
        AssertionError: something does not exist; the text names it and the place.
    """
    checks = {"aiorpc": _check_aiorpc, "make": _check_make, "pip": _check_pip}
    check = checks.get(words[0])
    assert check or words[0].rpartition("/")[2] in _OTHERS, f"{place}: what is {words[0]!r}?"
    if check:
        check(words[1:], place)


def _check_aiorpc(words: list[str], place: str) -> None:
    if not words or words[0].startswith("-"):
        return  # `aiorpc` itself has no option that a page could get wrong
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            name, given = command_of(words)
            parser_of(name).read(given)
        except SystemExit:
            command = " ".join(words)
            raise AssertionError(f"{place}: aiorpc {command}: {printed.getvalue()}") from None


def _check_make(words: list[str], place: str) -> None:
    for target in words:
        if "=" in target:  # a variable
            continue
        assert re.search(rf"^{re.escape(target)}:", _MAKEFILE, re.MULTILINE), (
            f"{place}: the Makefile has no target {target}"
        )


def _check_pip(words: list[str], place: str) -> None:
    """Refuse the unrelated project that is called aiorpc on PyPI."""
    for word in words[1:]:
        requirement = re.fullmatch(r"(?P<name>[\w.-]+?)(\[(?P<extras>[\w,-]+)\])?", word)
        if requirement is None or requirement["name"] == _PROJECT["project"]["name"]:
            for extra in ((requirement and requirement["extras"]) or "").split(","):
                known = _PROJECT["project"]["optional-dependencies"]
                assert not extra or extra in known, f"{place}: there is no extra {extra!r}"
        else:
            assert requirement["name"] != "aiorpc", f"{place}: that is another project"

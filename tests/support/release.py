"""
Makes what a release consists of, and uploads nothing: `make release`.

    python -m tests.support.release        writes to dist/VERSION/

Builds the sdist, the wheel from the sdist, and the documentation; checks both packages; writes the
changelog's section, an SBOM (CycloneDX) of the wheel with all extras, and the hashes. The version
comes from `aiorpc/__init__.py`, and the dates of the files from the last commit, so that a second
build gives the same packages.

Needs the dependency groups `release` and `docs`, git, and a package index for the SBOM.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiorpc

from .wheel import ROOT, Failed, run

VERSION = aiorpc.__version__
#: Seconds for the documentation, also on a busy machine.
_DOCS_WITHIN = 1800.0
#: A heading of the changelog: `## [1.2.3] - 2026-11-30`, or `## [Unreleased]`.
_HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - \d{4}-\d\d-\d\d)?$", re.MULTILINE)


def section(changelog: str, version: str) -> str:
    """Return the text below the heading of *version*; empty if there is none."""
    headings = list(_HEADING.finditer(changelog))
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        if heading["version"] == version:
            end = len(changelog) if following is None else following.start()
            return changelog[heading.end() : end].strip()
    return ""


def notes(changelog: str) -> str:
    """Return the text of this version; before its section exists, that of the next version."""
    return section(changelog, VERSION) or section(changelog, "Unreleased")


def packages(directory: Path, *, isolated: bool = False) -> tuple[Path, Path]:
    """
    Build the sdist in *directory*, and the wheel from the sdist. Return both.

    Raises:
        Failed: the build failed, or the packages have another version than aiorpc.
    """
    isolation = [] if isolated else ["--no-isolation"]
    epoch = {"SOURCE_DATE_EPOCH": _git("log", "-1", "--format=%ct") or "315532800"}
    command = [sys.executable, "-m", "build", *isolation, "--outdir", str(directory), str(ROOT)]
    run(command, environment=epoch)
    found = [*directory.glob("*.tar.gz"), *directory.glob("*.whl")]
    if [path.name.split("-")[1].removesuffix(".tar.gz") for path in found] != [VERSION] * 2:
        raise Failed(f"expected an sdist and a wheel of {VERSION}, got {sorted(found)}")
    return found[0], found[1]


def check(sdist: Path, wheel: Path) -> None:
    """
    Raises:
        Failed: an index would refuse a package, or the wheel has files that it must not have.
    """
    run([sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)])
    run([sys.executable, "-m", "check_wheel_contents", "--toplevel", "aiorpc", str(wheel)])


def build_docs(directory: Path) -> None:
    """Build the documentation in the folder of its version, and a page that leads there."""
    options = ("--quiet", "--fail-on-warning", "--keep-going", "--nitpicky")
    pages = directory / VERSION
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(pages)]
    run(command, within=_DOCS_WITHIN)
    shutil.rmtree(pages / ".doctrees")
    (directory / "index.html").write_text(
        f'<!doctype html><meta charset="utf-8"><title>aiorpc</title>'
        f'<meta http-equiv="refresh" content="0; url={VERSION}/index.html">'
        f'<a href="{VERSION}/index.html">aiorpc {VERSION}</a>\n'
    )


def write_sbom(wheel: Path, target: Path) -> int:
    """
    Write the SBOM of *wheel* with all extras, as pip installs it today. Return the number of
    packages in it.
    """
    with tempfile.TemporaryDirectory(prefix="aiorpc-sbom-") as name:
        home = Path(name) / "environment"
        run([sys.executable, "-m", "venv", "--without-pip", str(home)])
        python = str(home / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        run([*pip, "--python", python, "install", f"{wheel}[all]"])
        run(
            [
                *(sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"),
                *("--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "library"),
                *("--output-format", "JSON", "--output-file", str(target), python),
            ]
        )
    document = json.loads(target.read_text())
    document["metadata"]["component"] |= {
        "version": VERSION,  # which pyproject.toml reads from aiorpc/__init__.py
        "purl": f"pkg:pypi/aiorpc-amqp@{VERSION}",
    }
    target.write_text(json.dumps(document, indent=2) + "\n")
    return len(document["components"])


def write_hashes(directory: Path) -> None:
    """Write `SHA256SUMS` of the files in *directory*, as `sha256sum -c` reads it."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (directory / "SHA256SUMS").write_text("".join(lines))


def left_to_do() -> Iterator[str]:
    """Yield what is to be done before these packages may be uploaded."""
    if not section((ROOT / "CHANGELOG.md").read_text(), VERSION):
        yield f"give CHANGELOG.md a heading with its date: ## [{VERSION}] - YYYY-MM-DD"
    if _git("status", "--porcelain"):
        yield "commit what differs from the last commit"
    if f"v{VERSION}" not in _git("tag", "--points-at", "HEAD").split():
        yield f"tag the commit: git tag v{VERSION}"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def main() -> int:
    directory = ROOT / "dist" / VERSION
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    os.chdir(ROOT)
    try:
        sdist, wheel = packages(directory)
        print(f"{sdist.name}, {wheel.name}: built", flush=True)
        check(sdist, wheel)
        print("twine check --strict, check-wheel-contents: passed", flush=True)
        (directory / f"CHANGELOG-{VERSION}.md").write_text(
            notes((ROOT / "CHANGELOG.md").read_text()) + "\n"
        )
        count = write_sbom(wheel, directory / f"aiorpc_amqp-{VERSION}.cdx.json")
        print(f"SBOM: {count} packages", flush=True)
        write_hashes(directory)
        build_docs(directory / "docs")
        print(f"documentation: dist/{VERSION}/docs/{VERSION}", flush=True)
    except Failed as failed:
        print(failed)
        return 1
    print(f"dist/{VERSION} is complete; nothing was uploaded")
    for each in left_to_do():
        print(f"before an upload: {each}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""
The pytest plugin, in separate processes: with each plugin that runs coroutines, and with none.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nameko.virtualenvs import Unavailable, python_of

pytest_plugins = ["pytester"]

PROJECT = Path(__file__).parent / "project"
LOOP = "asyncio_default_fixture_loop_scope=function"

#: Plugins that a project does not need, and that take seconds to import.
OTHERS = [
    part for name in ("hypothesispytest", "xdist", "timeout") for part in ("-p", f"no:{name}")
]
OTHERS += ["-p", "no:schemathesis"]
STRICT = [*OTHERS, "-o", LOOP, "-o", "asyncio_mode=strict"]
AUTO = [*OTHERS, "-o", LOOP, "-o", "asyncio_mode=auto"]
#: Which modules of the project run with which options.
RUNS: dict[str, tuple[list[str], list[str]]] = {
    "asyncio auto": (["auto"], AUTO),
    "asyncio auto, session loop": (
        ["auto"],
        [*AUTO, "-o", "asyncio_default_test_loop_scope=session"],
    ),
    "asyncio strict, and anyio beside it": (["strict", "module_loop", "anyio"], STRICT),
    "anyio alone": (["anyio"], [*OTHERS, "-p", "no:asyncio"]),
}
#: The others run in `make test-long`.
QUICK = ("asyncio auto", "anyio alone")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    # pytest would rewrite its plugins again in every process
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester


@pytest.mark.parametrize(
    "how",
    [pytest.param(how, marks=[] if how in QUICK else [pytest.mark.long]) for how in RUNS],
)
def test_a_projects_tests_pass_with_each_async_plugin(how: str, run: pytest.Pytester) -> None:
    modules, options = RUNS[how]
    shutil.copytree(PROJECT, run.path, dirs_exist_ok=True)
    files = [f"test_{module}.py" for module in modules]
    run.runpytest_subprocess(*options, *files).assert_outcomes(passed=7 * len(files))


@pytest.mark.parametrize(
    "option", ["--aiorpc-amqp-uri", pytest.param("--amqp-uri", marks=pytest.mark.long)]
)
def test_a_projects_tests_run_on_rabbitmq_with_the_option(
    option: str, run: pytest.Pytester, rabbitmq_uri: str
) -> None:
    shutil.copytree(PROJECT, run.path, dirs_exist_ok=True)
    run.makepyfile(
        test_uri=f"""
        def test_it_is_the_one_given(amqp_uri):
            assert amqp_uri == {rabbitmq_uri!r}
        """
    )
    result = run.runpytest_subprocess(*AUTO, option, rabbitmq_uri, "test_auto.py", "test_uri.py")
    result.assert_outcomes(passed=8)


def test_the_short_option_is_left_to_another_plugin_that_has_it(run: pytest.Pytester) -> None:
    run.makeconftest("def pytest_addoption(parser): parser.addoption('--amqp-uri', dest='theirs')")
    run.makepyfile(
        """
        def test_it_is_theirs(request, amqp_uri):
            assert request.config.getoption("theirs") == "amqp://theirs/"
            assert amqp_uri.startswith("memory://")
        """
    )
    result = run.runpytest_subprocess(*AUTO, "--amqp-uri=amqp://theirs/")
    result.assert_outcomes(passed=1)


def test_fixtures_without_an_asyncio_loop_name_the_remedy(run: pytest.Pytester) -> None:
    run.makepyfile(
        """
        import pytest

        @pytest.fixture
        def anyio_backend(): return ("trio", {})

        @pytest.mark.anyio
        async def test_anyio_with_trio_is_refused(cluster_rpc): ...

        def test_no_plugin(container_factory): ...
        """
    )
    result = run.runpytest_subprocess(*OTHERS, "-p", "no:asyncio")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "*aiorpc runs on asyncio, and anyio_backend is 'trio' here*",
            "*container_factory needs an event loop: install pytest-asyncio*",
        ]
    )


def test_calling_without_the_broker_is_one_error_that_names_the_option(
    run: pytest.Pytester,
) -> None:
    run.makepyfile(
        """
        import pytest

        @pytest.fixture
        def aiorpc_config(amqp_uri): return {"AMQP_URI": amqp_uri, "RPC_TIMEOUT": 0.05}

        async def test_calls(cluster_rpc): ...
        """
    )
    result = run.runpytest_subprocess(*AUTO, "--aiorpc-amqp-uri=amqp://guest:guest@127.0.0.1:1/")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*ConnectionLost: *amqp://guest:[*][*][*]@127*--aiorpc-amqp-uri*")


def test_without_sqlalchemy_the_plugin_loads_and_the_remedy_is_named(run: pytest.Pytester) -> None:
    run.makeconftest("import sys; sys.modules['sqlalchemy'] = None")
    run.makepyfile(
        """
        import pytest

        @pytest.fixture
        def model_base(): ...

        async def test_calls(cluster_rpc): ...

        async def test_database(db_session): ...
        """
    )
    result = run.runpytest_subprocess(*AUTO)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("*db_session needs sqlalchemy*pip install*")


# Beside others


def test_aiorpc_testing_imports_no_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import aiorpc.testing"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_namekos_plugin_is_refused_with_one_line(run: pytest.Pytester) -> None:
    """A stand-in for Nameko has its entry point, its options and its fixtures."""
    run.makepyfile(
        standin="""
        import pytest

        def pytest_addoption(parser): parser.addoption("--amqp-uri")

        @pytest.fixture
        def amqp_uri(): return "theirs"
        """
    )
    info = run.mkdir("nameko-2.14.1.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nameko\nVersion: 2.14.1\n")
    (info / "entry_points.txt").write_text("[pytest11]\npytest_nameko = standin\n")
    run.syspathinsert()
    run.makepyfile("def test_it(amqp_uri): assert amqp_uri == 'amqp://ours/'")
    refused = run.runpytest_subprocess(*AUTO)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in refused.errlines if line] == [
        "ERROR: the pytest plugins of Nameko and aiorpc cannot run together: their fixtures have "
        "the same names, and Nameko's plugin patches the process for eventlet. Switch one off: "
        "`-p no:nameko` for tests with aiorpc, `-p no:aiorpc` for tests with Nameko"
    ]
    accepted = run.runpytest_subprocess(*AUTO, "-p", "no:nameko", "--amqp-uri=amqp://ours/")
    accepted.assert_outcomes(passed=1)
    run.makepyfile("def test_it(amqp_uri): assert amqp_uri == 'theirs'")
    theirs = run.runpytest_subprocess(*AUTO, "-p", "no:aiorpc", "--amqp-uri=amqp://theirs/")
    theirs.assert_outcomes(passed=1)


@pytest.mark.nameko
@pytest.mark.long
def test_real_namekos_plugin_is_refused(run: pytest.Pytester) -> None:
    try:
        python = python_of("2.14.1")
    except Unavailable as reason:
        pytest.skip(str(reason))
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if f"python3.{sys.version_info.minor}" not in site:
        pytest.skip(f"Nameko is installed for another Python: {site}")
    # Last on the path, so that only Nameko comes from there.
    code = f"import sys; sys.path.append({site!r}); import pytest; sys.exit(pytest.main())"
    run.makepyfile("def test_it(amqp_uri): assert amqp_uri.startswith('memory://')")
    command = [sys.executable, "-c", code, *AUTO]
    refused = subprocess.run(command, cwd=run.path, capture_output=True, text=True, timeout=50)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR, refused.stdout
    assert "Switch one off: `-p no:nameko`" in refused.stderr
    accepted = subprocess.run(
        [*command, "-p", "no:nameko"], cwd=run.path, capture_output=True, text=True, timeout=50
    )
    assert accepted.returncode == 0, accepted.stdout

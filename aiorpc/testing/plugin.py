"""
The pytest plugin: fixtures for tests of services, on ``memory://`` or, with ``--aiorpc-amqp-uri``,
on RabbitMQ. Only this file imports pytest.

The fixtures work with pytest-asyncio, in auto and in strict mode, and with anyio's plugin. Each of
these plugins needs its own declaration of asynchronous fixtures. So every fixture that needs an
event loop has hidden copies: one for anyio, and one for each loop scope of pytest-asyncio. The
public fixture picks the hidden copy for the loop that runs the test.
"""

from __future__ import annotations

import contextlib
import os
import types
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

import pytest

from ..calling.proxies import ClusterProxy
from ..calling.publishing import CONNECT_TIMEOUT
from ..calling.standalone import ClusterRpcProxy
from ..config import resolve
from ..hosting.container import ServiceContainer
from ..hosting.runner import ServiceRunner
from ..transports import open_transport
from ..wire.protocol import Wire
from .containers import Config, Containers, naming_the_option
from .messages import QueueMessage, get_message

if TYPE_CHECKING:  # SQLAlchemy is optional
    from .databases import FixtureSession, SessionDatabase

__all__ = ["ContainerFactory", "ContractHolder", "MessageGetter", "RunnerFactory"]

T = TypeVar("T")
LoopScope: TypeAlias = Literal["function", "class", "module", "package", "session"]

_NAMEKO = ("pytest_nameko", "nameko", "nameko.testing.pytest")
#: The scopes of pytest-asyncio's event loops.
_LOOP_SCOPES: tuple[LoopScope, ...] = ("function", "class", "module", "package", "session")


# Options, and Nameko's plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("aiorpc").addoption(
        "--aiorpc-amqp-uri",
        dest="aiorpc_amqp_uri",
        metavar="URI",
        help="the broker of the fixtures, amqp://user:password@host/vhost. It has to be a broker "
        "for tests: the queues of the services under test are deleted after each test. Default: "
        "a separate memory:// for each test",
    )
    parser.getgroup("aiorpc").addoption(
        "--aiorpc-db-url",
        default="sqlite://",
        metavar="URL",
        help="the database of the fixture db_session. Default: SQLite in memory",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser
) -> Generator[None]:
    _refuse_nameko(early_config)
    yield
    # Other plugins and conftest files have added their options. Check whether the short name is
    # free.
    probe = "--amqp-uri=memory://"
    if probe in parser.parse_known_and_unknown_args([probe])[1]:
        parser.getgroup("aiorpc").addoption(
            "--amqp-uri", dest="aiorpc_amqp_uri", metavar="URI", help="short for --aiorpc-amqp-uri"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    _refuse_nameko(config)
    config.pluginmanager.register(_fixtures_for_loops(config), "aiorpc-loop-fixtures")


def _refuse_nameko(config: pytest.Config) -> None:
    """Refuse Nameko's plugin, which has the same fixtures and patches the standard library."""
    if any(config.pluginmanager.hasplugin(name) for name in _NAMEKO):
        raise pytest.UsageError(
            "the pytest plugins of Nameko and aiorpc cannot run together: their fixtures have the "
            "same names, and Nameko's plugin patches the process for eventlet. Switch one off: "
            "`-p no:nameko` for tests with aiorpc, `-p no:aiorpc` for tests with Nameko"
        )


# The public fixtures. Their unused arguments belong to the hidden fixtures: pytest has to know them
# before the test runs, because a test may override and parametrize them.


@pytest.fixture
def amqp_uri(request: pytest.FixtureRequest) -> str:
    """
    The URL of the broker: ``--aiorpc-amqp-uri``, otherwise a separate ``memory://`` for this test.
    Override the fixture to choose another URL, for example a vhost for each worker of pytest-xdist.
    """
    uri: str | None = request.config.getoption("aiorpc_amqp_uri")
    return uri or f"memory://test-{uuid.uuid4().hex}"


@pytest.fixture
def aiorpc_config(amqp_uri: str) -> dict[str, Any]:
    """
    The configuration of the fixtures below. Override this fixture to add keys such as ``DB_URIS``.
    The default of ``AMQP_URI`` is the fixture ``amqp_uri``.
    """
    return {"AMQP_URI": amqp_uri}


class ContainerFactory(Protocol):
    """The type of the fixture ``container_factory``."""

    def __call__(
        self, service_cls: type, config: Config = None, **options: Any
    ) -> ServiceContainer: ...


class RunnerFactory(Protocol):
    """The type of the fixture ``runner_factory``."""

    def __call__(self, *services: type, config: Config = None, **options: Any) -> ServiceRunner: ...


@pytest.fixture
def container_factory(
    request: pytest.FixtureRequest, aiorpc_config: Mapping[str, Any], amqp_uri: str
) -> ContainerFactory:
    """
    Makes containers on the broker of the test::

        async with container_factory(ServiceX) as container:
            ...

    ``await container_factory(ServiceX).start()`` works too. When the test ends, the fixture stops
    running containers. It raises the error of a failed container if the test did not see the error.

    A *config* that is a mapping or a URL overrides ``aiorpc_config``. A *config* that is a file or
    ``Settings`` is overridden by ``aiorpc_config``, so that the test keeps its own broker.
    """
    return _on_the_loop_of(request, _containers).container


@pytest.fixture
def runner_factory(
    request: pytest.FixtureRequest, aiorpc_config: Mapping[str, Any], amqp_uri: str
) -> RunnerFactory:
    """Makes runners of several services, like ``container_factory``."""
    return _on_the_loop_of(request, _containers).runner


@pytest.fixture
def cluster_rpc(
    request: pytest.FixtureRequest, aiorpc_config: Mapping[str, Any], amqp_uri: str
) -> ClusterProxy:
    """Calls any service: ``await cluster_rpc.service_x.remote_method("hello")``."""
    return _on_the_loop_of(request, _cluster)


class MessageGetter(Protocol):
    """The type of the fixture ``get_message_from_queue``."""

    async def __call__(
        self, queue: str, *, ack: bool = True, timeout: float = 5.0
    ) -> QueueMessage: ...


@pytest.fixture
def get_message_from_queue(
    request: pytest.FixtureRequest, aiorpc_config: Mapping[str, Any], amqp_uri: str
) -> MessageGetter:
    """
    Takes a message from a queue without consumers::

        message = await get_message_from_queue("letters")
        assert message.payload == {"to": "Ada"}

    See :func:`aiorpc.testing.messages.get_message`.
    """
    return _on_the_loop_of(request, _messages)


class ContractHolder(Protocol):
    """The type of the fixture ``contract``."""

    def __call__(self, *services: type, file: str | os.PathLike[str] = "contract.json") -> None: ...


@pytest.fixture
def contract(request: pytest.FixtureRequest) -> ContractHolder:
    """
    Holds services to their contract in a file that is committed::

        def test_the_contract_is_kept(contract):
            contract(Orders, Stock, file="contracts/shop.json")

    The path is relative to pytest's root directory. The failure says what the code breaks, and the
    command that updates the file.
    """

    def hold(*services: type, file: str | os.PathLike[str] = "contract.json") -> None:
        from .contracts import difference_from  # few tests need it

        if not services:
            pytest.fail("name the services: contract(Orders, file=...)", pytrace=False)
        difference = difference_from(request.config.rootpath, services, file)
        if difference is not None:
            pytest.fail(difference, pytrace=False)

    return hold


@pytest.fixture
def db_url(request: pytest.FixtureRequest) -> str:
    """The URL for ``db_session``: ``--aiorpc-db-url``, by default SQLite in memory."""
    return str(request.config.getoption("aiorpc_db_url"))


@pytest.fixture
def model_base() -> Any:
    """The declarative base of the models under test. This fixture has no default: override it."""
    pytest.fail(
        "db_session needs your models: define a fixture `model_base` that returns their "
        "declarative base",
        pytrace=False,
    )


@pytest.fixture
def db_session(request: pytest.FixtureRequest, model_base: Any, db_url: str) -> FixtureSession:
    """
    The database session of the test. ``worker_factory(Library, db=db_session)`` gives the service a
    session of its own on the same connection. After the test, committed changes are rolled back
    too. Needs ``model_base``.
    """
    return _on_the_loop_of(request, _db_session)


@pytest.fixture
def database(db_session: FixtureSession) -> SessionDatabase:
    """Replaces the ``Database(Base)`` of a service, on the connection of ``db_session``."""
    from .databases import SessionDatabase

    return SessionDatabase(db_session)


# The hidden fixtures, which need an event loop


async def _containers(
    aiorpc_config: Mapping[str, Any], amqp_uri: str
) -> AsyncGenerator[Containers]:
    containers = Containers({"AMQP_URI": amqp_uri, **aiorpc_config}, amqp_uri)
    try:
        yield containers
    finally:
        await containers.stop()


async def _cluster(aiorpc_config: Mapping[str, Any], amqp_uri: str) -> AsyncGenerator[ClusterProxy]:
    proxy = ClusterRpcProxy({"AMQP_URI": amqp_uri, **aiorpc_config})
    with naming_the_option():
        cluster = await proxy.start()
    try:
        yield cluster
    finally:
        await proxy.aclose()


async def _messages(
    aiorpc_config: Mapping[str, Any], amqp_uri: str
) -> AsyncGenerator[MessageGetter]:
    settings = resolve({"AMQP_URI": amqp_uri, **aiorpc_config})
    transport = open_transport(settings, name="aiorpc tests")
    try:
        with naming_the_option():
            await transport.start(CONNECT_TIMEOUT)
        yield partial(get_message, transport, Wire.of(settings))
    finally:
        await transport.aclose()


async def _db_session(model_base: Any, db_url: str) -> AsyncGenerator[FixtureSession]:
    try:
        from .databases import opened_session
    except ModuleNotFoundError as exc:
        pytest.fail(
            f"db_session needs {exc.name}, which is not installed: "
            'pip install "aiorpc-amqp[sqlite]"',
            pytrace=False,
        )
    async with opened_session(model_base, db_url) as session:
        yield session


def _copy(function: Any) -> types.FunctionType:
    """Copy *function*, because each plugin marks the function of a fixture."""
    return types.FunctionType(function.__code__, function.__globals__)


def _fixtures_for_loops(config: pytest.Config) -> types.ModuleType:
    """Make the plugin with the hidden fixtures."""
    plugin = types.ModuleType("aiorpc_loop_fixtures", "aiorpc's fixtures that run on a loop.")
    for function in (_containers, _cluster, _messages, _db_session):
        name = f"_aiorpc{function.__name__}_anyio"
        setattr(plugin, name, pytest.fixture(name=name)(_copy(function)))
        if config.pluginmanager.hasplugin("asyncio"):
            import pytest_asyncio

            for scope in _LOOP_SCOPES:
                name = f"_aiorpc{function.__name__}_{scope}"
                fixture = pytest_asyncio.fixture(name=name, loop_scope=scope)
                setattr(plugin, name, fixture(_copy(function)))
    return plugin


def _on_the_loop_of(
    request: pytest.FixtureRequest, function: Callable[..., AsyncGenerator[T]]
) -> T:
    """Return the value of the hidden fixture *function* for the loop that runs the test."""
    value: T = request.getfixturevalue(f"_aiorpc{function.__name__}_{_loop_of(request)}")
    return value


def _loop_of(request: pytest.FixtureRequest) -> str:
    marker = request.node.get_closest_marker("asyncio")
    if marker is None and "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        name = backend if isinstance(backend, str) else backend[0]
        if name != "asyncio":
            pytest.fail(
                f"aiorpc runs on asyncio, and anyio_backend is {name!r} here: let the fixture "
                'anyio_backend return "asyncio"',
                pytrace=False,
            )
        return "anyio"
    if not request.config.pluginmanager.hasplugin("asyncio"):
        pytest.fail(
            f"{request.fixturename} needs an event loop: install pytest-asyncio, or mark the test "
            "with pytest.mark.anyio where anyio is installed",
            pytrace=False,
        )
    asked = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope") if marker else None
    return asked or _default_loop_scope(request.config)


def _default_loop_scope(config: pytest.Config) -> str:
    with contextlib.suppress(ValueError):  # pytest-asyncio < 0.26 has no such setting
        return config.getini("asyncio_default_test_loop_scope") or "function"
    return "function"

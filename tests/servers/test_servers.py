"""How `make servers` chooses, recognizes and stops servers.

The servers are small Python programs that listen on loopback: no RabbitMQ, database, Docker or apt.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.servers import ServerError, compose, probes, provision, urls
from tests.servers.kinds import KINDS, RABBITMQ, Kind
from tests.servers.packages import services_forbidden
from tests.servers.private import PrivateServer
from tests.servers.process import PORTS, Process, free_ports, started_at, tail
from tests.servers.state import REPOSITORY, Record, State

LISTENER = """\
import socket, sys, time
print("the listener speaks", flush=True)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
"""
FAILING = "import sys; sys.exit('disk full, says the program')"


class Listener(PrivateServer):
    """A private server in a few lines of Python, which can start wherever the tests run."""

    kind = "listener"
    title = "Listener"
    accounts = ("root",)  # the interpreter may be where no other user can go
    ports = ("tcp",)
    source = LISTENER

    @classmethod
    def program(cls) -> Path | None:
        return Path(sys.executable)

    @classmethod
    def url_at(cls, ports: dict[str, int]) -> str:
        return f"amqp://127.0.0.1:{ports['tcp']}/"

    def prepare(self) -> None:
        self.write("listener.py", self.source)

    def command(self) -> list[str | Path]:
        return [sys.executable, self.directory / "listener.py", str(self.record.ports["tcp"])]

    def answers(self) -> bool:
        return probes.listens(self.url)


class Failing(Listener):
    kind = "failing"
    title = "Failing"
    source = FAILING


class NotInstalled(Listener):
    kind = "absent"
    title = "Absent"

    @classmethod
    def program(cls) -> Path | None:
        return None


def kind_of(private: type[PrivateServer]) -> Kind:
    return Kind(private, f"AIORPC_TEST_{private.kind.upper()}_URI", private.kind, private.kind)


LISTENER_KIND = kind_of(Listener)


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A separate state directory for the test, and a PATH (returned) without docker and apt-get."""
    for kind in (*KINDS, LISTENER_KIND):
        monkeypatch.delenv(kind.variable, raising=False)
    monkeypatch.delenv("AIORPC_REQUIRE_SERVERS", raising=False)
    monkeypatch.setenv("AIORPC_SERVERS_DIR", str(tmp_path / "servers"))
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    yield programs
    provision.down(lambda line: None, [kind_of(one) for one in (Listener, Failing, NotInstalled)])
    assert State().records() == {}


@pytest.fixture
def said() -> list[str]:
    return []


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server for one connection, handled by `answer` in a thread; yields its port."""

    def serve() -> None:
        with closing(server.accept()[0]) as connection:
            answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(5)


def dead_url() -> str:
    return f"amqp://127.0.0.1:{free_ports(1)[0]}/"


def a_program(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# -- up, urls, down ------------------------------------------------------------------------------


def test_an_installed_program_is_started_privately(said: list[str]) -> None:
    assert provision.up(said.append, [LISTENER_KIND]) == []
    record = State().records()["listener"]
    assert record.alive
    assert urlsplit(record.url).port in PORTS
    assert said == [line for line in said if record.url in line]
    assert "the listener speaks" in tail(Path(record.directory) / "server.log")


def test_a_second_up_finds_the_first_one(said: list[str]) -> None:
    provision.up(said.append, [LISTENER_KIND])
    first = State().records()
    provision.up(said.append, [LISTENER_KIND])
    assert State().records() == first
    assert "already up" in said[-1]


def test_two_runs_of_up_at_once_start_one_server(said: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for missing in pool.map(lambda _: provision.up(said.append, [LISTENER_KIND]), range(2)):
            assert missing == []
    assert len({line.split()[1] for line in said}) == 1


def test_a_server_that_died_is_started_again(said: list[str]) -> None:
    provision.up(said.append, [LISTENER_KIND])
    first = State().records()["listener"]
    Listener(first, State()).kill()
    assert not first.alive
    provision.up(said.append, [LISTENER_KIND])
    second = State().records()["listener"]
    assert second.alive
    assert second.processes != first.processes


def test_down_stops_the_server_and_removes_its_data(said: list[str]) -> None:
    provision.up(said.append, [LISTENER_KIND])
    record = State().records()["listener"]
    provision.down(said.append, [LISTENER_KIND])
    assert not record.alive
    assert not Path(record.directory).exists()
    assert State().records() == {}
    assert said[-1] == "listener stopped"


def test_down_spares_another_process_with_a_reused_id(said: list[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        recycled = Process(stranger.pid, "long ago")
        record = Record("listener", "listener", "private", dead_url(), "/nonexistent")
        State().put(replace(record, processes={"server": recycled}))
        provision.down(said.append, [LISTENER_KIND])
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_a_missing_server_is_reported_in_one_line_with_the_remedy(said: list[str]) -> None:
    absent = kind_of(NotInstalled)
    assert provision.up(said.append, [absent, LISTENER_KIND]) == [absent]
    loud = [line for line in said if "MISSING" in line]
    assert len(loud) == 1
    assert "Absent" in loud[0]
    assert "`apt-get install absent`" in loud[0]
    assert absent.variable in loud[0]


def test_the_error_of_a_server_that_does_not_start_has_its_last_output(said: list[str]) -> None:
    failing = kind_of(Failing)
    assert provision.up(said.append, [failing]) == [failing]
    assert "ended while it was starting" in said[-1]
    assert "disk full, says the program" in said[-1]


def test_a_url_in_the_environment_is_used_first(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        given = f"amqp://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setenv(LISTENER_KIND.variable, given)
        assert provision.up(said.append, [LISTENER_KIND]) == []
    assert given in said[0]
    assert State().records() == {}


def test_a_url_in_the_environment_without_a_server_is_not_replaced(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LISTENER_KIND.variable, dead_url())
    assert provision.up(said.append, [LISTENER_KIND]) == [LISTENER_KIND]
    assert f"{LISTENER_KIND.variable} is set, but no server answers there" in said[-1]
    assert State().records() == {}


def test_urls_come_from_the_environment_or_from_running_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Listener.create(State(), "listener")
    State().put(replace(server.record, name="postgresql", kind="postgresql"))
    State().put(replace(server.record, name="mysql", processes={}))
    monkeypatch.setenv(RABBITMQ.variable, "amqp://broker.example/")
    found = urls()
    assert (found.rabbitmq, found.postgresql, found.mysql) == (
        "amqp://broker.example/",
        server.url,
        None,
    )
    assert found.environment() == {
        "AIORPC_TEST_AMQP_URI": "amqp://broker.example/",
        "AIORPC_TEST_POSTGRESQL_URI": server.url,
    }
    State().forget("postgresql")
    State().forget("mysql")


@pytest.mark.parametrize(("required", "code"), [("", 0), ("1", 1)])
def test_the_exit_code_shows_missing_servers_only_if_they_are_required(
    required: str, code: int
) -> None:
    claimed = {kind.variable: dead_url() for kind in KINDS}
    environment = {**os.environ, **claimed, "AIORPC_REQUIRE_SERVERS": required}
    done = subprocess.run(
        [sys.executable, "-m", "tests.servers", "up", "--exports"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("MISSING")) == (code, len(KINDS))
    assert f"export AIORPC_TEST_AMQP_URI={claimed[RABBITMQ.variable]}\n" in done.stdout


# -- one private server --------------------------------------------------------------------------


@pytest.mark.parametrize("end", [PrivateServer.stop, PrivateServer.kill])
def test_a_server_stopped_by_a_test_starts_again_where_it_was(
    end: Callable[[PrivateServer], None],
) -> None:
    server = Listener.create(State(), "listener")
    pids = [server.pid]
    end(server)
    pids.append(server.pid)
    assert not server.answers()
    server.start()
    pids.append(server.pid)
    assert server.answers()
    assert pids[1] is None
    assert None not in (pids[0], pids[2])
    assert pids[0] != pids[2]
    assert State().records()["listener"] == server.record


def test_several_servers_of_one_kind_run_at_once() -> None:
    one, other = (Listener.create(State(), name) for name in ("listener", "listener-2"))
    other.remove()
    assert one.record.alive
    assert not other.record.alive
    assert not other.directory.exists()


def test_a_servers_environment_lacks_variables_for_other_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RABBITMQ_NODENAME", "production@localhost")
    monkeypatch.setenv("PGDATA", "/var/lib/postgresql")
    server = Listener.create(State(), "listener")
    assert not {"RABBITMQ_NODENAME", "PGDATA"} & server.environment().keys()


# -- processes and ports -------------------------------------------------------------------------


def test_a_process_is_recognized_by_its_id_and_start_time() -> None:
    started = started_at(os.getpid())
    assert started is not None
    assert Process(os.getpid(), started).alive
    assert not Process(os.getpid(), f"{started}0").alive


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert started_at(child.pid) is None


def test_a_process_that_ignores_the_signal_is_killed() -> None:
    stubborn = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", stubborn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        Process(child.pid, started_at(child.pid) or "").end(signal.SIGTERM, patience=0.1)
        assert child.wait() == -signal.SIGKILL


def test_free_ports_are_different_and_not_ephemeral() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(port in PORTS for port in ports)
    assert PORTS.stop <= 32_768


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rabbitmq": {"name": "rabbitmq"}}'])
def test_a_broken_state_file_counts_as_empty(content: str) -> None:
    state = State()
    state.directory.mkdir()
    state.path.write_text(content)
    assert state.records() == {}


def test_a_lock_that_is_held_too_long_is_an_error() -> None:
    with (
        State().locked("up.lock", within=1),
        pytest.raises(ServerError, match=r"up\.lock for 0\.1 s"),
        State().locked("up.lock", within=0.1),
    ):
        pass


# -- probes --------------------------------------------------------------------------------------


def test_rabbitmq_is_recognized_by_its_connection_start() -> None:
    def broker(connection: socket.socket) -> None:
        assert connection.recv(8) == b"AMQP\x00\x00\x09\x01"
        connection.sendall(b"\x01\x00\x00\x00\x00\x01\xf4\x00\x0a\x00\x0a\x00\x09")

    with answering(broker) as port:
        assert probes.speaks_amqp(port)


@pytest.mark.parametrize(("first", "ready"), [(b"R", True), (b"E", False), (b"", False)])
def test_postgresql_is_ready_when_it_asks_for_a_password(first: bytes, ready: bool) -> None:
    def server(connection: socket.socket) -> None:
        length = int.from_bytes(connection.recv(4), "big")
        assert b"user\0ann\0database\0books\0" in connection.recv(length - 4)
        connection.sendall(first)

    with answering(server) as port:
        assert probes.accepts_postgresql(port, "ann", "books") is ready


@pytest.mark.parametrize(("version", "ready"), [(b"\x0a", True), (b"\xff", False)])
def test_mariadb_is_ready_when_it_sends_its_greeting(version: bytes, ready: bool) -> None:
    with answering(lambda connection: connection.sendall(b"\x4a\0\0\0" + version)) as port:
        assert probes.greets_as_mysql(port) is ready


def test_a_closed_port_is_no_error_of_a_probe() -> None:
    port = free_ports(1)[0]
    assert not probes.speaks_amqp(port)
    assert not probes.listens(f"amqp://127.0.0.1:{port}/")
    assert not probes.listens("amqp://127.0.0.1:nonsense/")
    assert not probes.listens("redis://127.0.0.1/")


# -- Docker --------------------------------------------------------------------------------------


def test_docker_without_an_engine_is_skipped(bare_machine: Path, said: list[str]) -> None:
    assert not compose.engine_answers()
    a_program(bare_machine, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    assert not compose.engine_answers()
    assert provision.up(said.append, [LISTENER_KIND]) == []
    assert "private" in said[-1]


def test_only_containers_that_we_started_are_ours(bare_machine: Path, tmp_path: Path) -> None:
    log = tmp_path / "docker.log"
    a_program(
        bare_machine,
        "docker",
        f'echo "$*" >> {log}\ncase "$*" in *"ps --services"*) echo rabbitmq ;; esac',
    )
    assert compose.engine_answers()
    assert compose.start(["rabbitmq", "mariadb"]) == ["mariadb"]
    compose.remove(["mariadb"])
    calls = log.read_text().splitlines()[-2:]
    file = f"compose --file {compose.COMPOSE_FILE}"
    assert calls == [
        f"{file} up -d --wait rabbitmq mariadb",
        f"{file} rm --stop --force --volumes mariadb",
    ]


def test_after_a_failure_of_docker_the_next_way_is_tried(
    bare_machine: Path, said: list[str]
) -> None:
    a_program(
        bare_machine,
        "docker",
        'case "$*" in *" up "*) echo "port is already allocated" >&2; exit 1 ;; esac',
    )
    assert provision.up(said.append, [LISTENER_KIND]) == []
    assert any("port is already allocated" in line for line in said)
    assert "private" in said[-1]


@pytest.fixture(scope="module")
def composition() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    return loaded


def test_the_composed_urls_are_read_without_a_yaml_parser(composition: dict[str, Any]) -> None:
    assert compose.urls() == composition["x-urls"]
    assert set(compose.urls()) == {kind.variable for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_composed_urls_agree_with_the_services(kind: Kind, composition: dict[str, Any]) -> None:
    service = composition["services"][kind.service]
    url = urlsplit(composition["x-urls"][kind.variable])
    inside = probes.DEFAULT_PORTS[url.scheme]
    assert f"{url.hostname}:{url.port}:{inside}" in service["ports"]
    settings = service.get("environment", {})
    prefix = {"postgresql": "POSTGRES", "mysql": "MARIADB"}.get(url.scheme)
    if prefix is None:  # RabbitMQ's own default
        assert (url.username, url.password, settings) == ("guest", "guest", {})
    else:
        assert settings[f"{prefix}_USER"] == url.username
        assert settings[f"{prefix}_PASSWORD"] == url.password
        assert settings.get(f"{prefix}_DB", settings.get(f"{prefix}_DATABASE")) == url.path[1:]


def test_composed_servers_listen_on_loopback_and_have_health_checks(
    composition: dict[str, Any],
) -> None:
    services = composition["services"]
    servers = {name: one for name, one in services.items() if "profiles" not in one}
    assert set(servers) == {kind.service for kind in KINDS}
    assert all("healthcheck" in server for server in servers.values())
    published = [port for one in services.values() for port in one.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)


# -- apt -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, "#!/bin/sh\nexit 0\n"])
def test_services_are_forbidden_only_while_packages_are_installed(
    before: str | None, tmp_path: Path
) -> None:
    policy = tmp_path / "policy-rc.d"
    if before is not None:
        policy.write_text(before)

    def interrupted_installation() -> None:
        with services_forbidden(policy):
            assert subprocess.run([policy], check=False).returncode == 101
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_installation()
    assert (policy.read_text() if policy.exists() else None) == before


@pytest.mark.parametrize("before", [None, "#!/bin/sh\nexit 0\n"])
def test_a_policy_left_by_an_interrupted_run_is_cleared_away(
    before: str | None, tmp_path: Path
) -> None:
    policy = tmp_path / "policy-rc.d"
    if before is not None:
        policy.write_text(before)
    interrupted = services_forbidden(policy)
    interrupted.__enter__()
    with services_forbidden(policy):
        pass
    assert (policy.read_text() if policy.exists() else None) == before

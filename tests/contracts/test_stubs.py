"""Stubs: typed modules for the callers of a service."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import pytest

from aiorpc import ClusterRpcProxy, ConfigurationError, ServiceContainer, rpc
from aiorpc.contracts.describing import contract_of
from aiorpc.contracts.model import Argument, Contract, OfferedMethod, Service
from aiorpc.contracts.stubs import stub_of
from tests.support.contract_services import SERVICES, Orders

NOW = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)


class Point(NamedTuple):
    x: int
    day: date


class Circle(msgspec.Struct, tag="circle"):
    radius: float


class Square(msgspec.Struct, tag="square"):
    side: float


@dataclass
class Node:
    name: str
    at: datetime
    parts: list[Node] = field(default_factory=list)
    shape: Circle | Square | None = None


@dataclass
class Protocol:
    """Its name, and its fields, are those of types."""

    list: list[int]
    date: date
    at: date | None = None


class Größe(msgspec.Struct):
    höhe: int = 1
    名前: str = "ü"


class 注文(msgspec.Struct):
    größe: Größe


class 商品(msgspec.Struct):
    preis: float


Item = TypeVar("Item")


class Page(msgspec.Struct, Generic[Item]):
    items: list[Item]


class Scripts:
    """Names in other scripts, and generic classes."""

    name = "店"

    @rpc
    async def 売る(self, 注文: 注文, größe: Größe) -> 商品:
        return 商品(注文.größe.höhe + größe.höhe)

    @rpc
    async def pages(self, page: Page[Größe]) -> Page[Page[商品]]:
        return Page([Page([商品(each.höhe)]) for each in page.items])


class Odd:
    """A "quoted" text\\ with \""" three."""

    name = "odd-stubs.v2"

    @rpc
    async def list(self, str: str, /, int: int = 3, *, dict: Any = None) -> Protocol:  # noqa: A002
        """Ends with a quote\""""
        return Protocol([int], date(2026, 1, len(str)))

    @rpc
    async def date(self, p: Point, b: bytes = b"\0", f: float = 1.5) -> Point:
        return p

    @rpc
    async def grow(self, node: Node) -> Node:
        return Node("root", NOW, [node], Circle(2.0))

    @staticmethod
    @rpc
    async def static(self: int, cls: int = 1) -> int:
        """Has no receiver."""
        return self + cls

    @rpc
    async def stream(self, number: int) -> AsyncIterator[Node]:
        for each in range(number):
            yield Node(f"{each}", NOW)


def imported(source: str, directory: Path) -> ModuleType:
    """The module *source*, as a caller imports it from a file."""
    name = f"stub_{uuid.uuid4().hex}"
    path = directory / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_stub_that_the_type_checkers_check_is_up_to_date() -> None:
    path = Path(__file__).parents[1] / "typing" / "stub_orders.py"
    stub = stub_of(contract_of(SERVICES), Orders.name)
    assert path.read_text(encoding="utf-8") == stub, (
        "write it again: aiorpc contract tests.support.contract_services | aiorpc stubs "
        "contract_orders --contract - -o tests/typing/stub_orders.py"
    )


async def test_calls_by_a_stub_have_the_types_of_the_service(tmp_path: Path) -> None:
    stub = imported(stub_of(contract_of([Odd]), Odd.name), tmp_path)
    url = "memory://stubs"
    async with ServiceContainer(Odd, url), ClusterRpcProxy(url) as cluster:
        odd = cluster.typed(stub.OddStubsV2, Odd.name)
        listed = await odd.list("abc", 4)
        assert listed == stub.Protocol_(list=[4], date=date(2026, 1, 3))
        assert await odd.date((1, date(2026, 1, 1))) == (1, date(2026, 1, 1))
        leaf = stub.Node(name="leaf", at=NOW, shape=stub.Square(side=1.5))
        root = await odd.grow(leaf)
        assert isinstance(root, stub.Node)
        assert root.parts == [leaf]
        assert root.shape == stub.Circle(radius=2.0)
        assert (await odd.static(1), await odd.static(self=2, cls=2)) == (2, 4)
        items = [each async for each in odd.stream(3)]
        assert [each.name for each in items] == ["0", "1", "2"]
        assert all(isinstance(each, stub.Node) and each.at == NOW for each in items)


async def test_classes_keep_their_names_in_every_script(tmp_path: Path) -> None:
    stub = imported(stub_of(contract_of([Scripts]), Scripts.name), tmp_path)
    url = "memory://scripts"
    async with ServiceContainer(Scripts, url), ClusterRpcProxy(url) as cluster:
        shop = cluster.typed(stub.店, Scripts.name)
        sold = await shop.売る(stub.注文(größe=stub.Größe(höhe=2)), größe=stub.Größe())
        assert sold == stub.商品(preis=3.0)
        pages = await shop.pages(stub.PageGröße(items=[stub.Größe()]))
        assert pages == stub.PagePage商品(items=[stub.Page商品(items=[stub.商品(preis=1.0)])])


def test_a_name_that_python_would_change_is_a_key(tmp_path: Path) -> None:
    """Python reads the ligature as two letters, and the wire has one."""
    schema = {"type": "object", "properties": {"\ufb01": {"type": "string"}}}
    method = OfferedMethod("find", (Argument("a", schema=schema),))
    source = stub_of(Contract({"shop": Service("shop", methods=(method,))}), "shop")
    assert imported(source, tmp_path).FindA.__annotations__.keys() == {"\ufb01"}


@pytest.mark.parametrize("service", SERVICES)
def test_the_stub_of_each_service_is_a_module(service: type[Any], tmp_path: Path) -> None:
    module = imported(stub_of(contract_of(SERVICES), service.name), tmp_path)
    assert service.name in (module.__doc__ or "")


#: Texts of another team, that must not become code.
NASTY = [
    *('"""\nOOPS = 1\n"""', "x\\", 'ends"', "'''", "{OOPS}", "\0\r\n\x85\u2028OOPS = 1", "class"),
    *("__import__('os')", "ä b", "1a", "]; OOPS = 1 #", "*", "", "\ud800"),
]


@pytest.mark.parametrize("nasty", NASTY)
def test_texts_of_a_contract_never_become_code(nasty: str, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "description": nasty,
        "properties": {nasty: {"enum": [nasty, 1]}, "a": {"type": "string", "default": nasty}},
        "required": [nasty],
    }
    tagged = {
        "type": "object",
        "description": nasty,
        "properties": {"tag": {"const": nasty}, "n": {"type": nasty, "format": nasty}},
        "required": ["n"],
    }
    members = [{"$ref": f"#/components/schemas/{nasty}"}, {"$ref": "#/components/schemas/T"}]
    parameters = (
        Argument("a", "positional_or_keyword", False, {"type": "string", "default": nasty}),
        Argument("b", "keyword_only", True, {"anyOf": members, "discriminator": "tag"}),
        Argument("c", "keyword_only", True, schema),
    )
    method = OfferedMethod("method", parameters, members[0], description=nasty)
    service = Service("shop", description=nasty, methods=(method,))
    contract = Contract({"shop": service}, {nasty: schema, "T": tagged})
    source = stub_of(contract, "shop")
    module = imported(source.encode(errors="replace").decode(), tmp_path)
    assert getattr(module, "OOPS", None) != 1
    assert hasattr(module, "Shop")


@pytest.mark.parametrize("name", ["a b", "class", "x: int = OOPS, *", ""])
def test_names_that_python_does_not_have_are_refused(name: str) -> None:
    for method in (OfferedMethod(name), OfferedMethod("m", (Argument(name),))):
        contract = Contract({"shop": Service("shop", methods=(method,))})
        with pytest.raises(ConfigurationError, match="cannot be a name in Python"):
            stub_of(contract, "shop")


def test_an_unknown_service_is_an_error_with_the_likely_name() -> None:
    with pytest.raises(ConfigurationError, match=r"no service 'contract_order'.*contract_orders"):
        stub_of(contract_of(SERVICES), "contract_order")


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "command",
    [["mypy", "--strict"], ["pyright", "--warnings", "--pythonpath", sys.executable]],
    ids=["mypy", "pyright"],
)
def test_the_stubs_pass_the_type_checkers(command: list[str], tmp_path: Path) -> None:
    contract = contract_of([*SERVICES, Odd, Scripts])
    for number, name in enumerate(contract.services):
        (tmp_path / f"stub_{number}.py").write_text(stub_of(contract, name), encoding="utf-8")
    module = "pyright" if command[0] == "pyright" else "mypy"
    options = [] if module == "pyright" else ["--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", *command, *options, "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

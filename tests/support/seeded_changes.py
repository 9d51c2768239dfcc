"""
Changes the source code of ``contract_services.py`` by seeds: changes that break a contract, and
changes that break nothing. Pure functions.

Each function in ``BREAKING`` and ``COMPATIBLE`` changes a syntax tree at places that the random
numbers choose, and says what it did. The rule that ``aiorpc contract diff`` must name is beside it.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

__all__ = ["BREAKING", "COMPATIBLE", "SOURCE", "Changed", "changed"]

SOURCE = (Path(__file__).parent / "contract_services.py").read_text(encoding="utf-8")

_Method = ast.FunctionDef | ast.AsyncFunctionDef


class Changed(NamedTuple):
    """A change: its kind, what it did, the rules of which one must be named, and the new source."""

    kind: str
    what: str
    rules: tuple[str, ...]
    source: str


class Code:
    """The syntax tree of the services."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.tree = ast.parse(SOURCE)
        self.classes = {
            each.name: each for each in self.tree.body if isinstance(each, ast.ClassDef)
        }

    def methods(self, *decorators: str) -> list[tuple[ast.ClassDef, _Method]]:
        """The methods of services with one of *decorators*, by default ``rpc``."""
        wanted = decorators or ("rpc",)
        return [
            (cls, node)
            for cls in self.classes.values()
            for node in cls.body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and any(_name(each) in wanted for each in node.decorator_list)
        ]

    def method(self, *names: str) -> _Method:
        """One of the methods *names*, or any."""
        found = [node for _, node in self.methods() if not names or node.name in names]
        return self.rng.choice(found)

    def fields(self, *classes: str) -> list[tuple[ast.ClassDef, ast.AnnAssign]]:
        return [
            (self.classes[name], node)
            for name in classes
            for node in self.classes[name].body
            if isinstance(node, ast.AnnAssign)
        ]

    def field(self, *classes: str) -> tuple[ast.ClassDef, ast.AnnAssign]:
        return self.rng.choice(self.fields(*classes))


def _name(decorator: ast.expr) -> str:
    while isinstance(decorator, ast.Call):
        decorator = decorator.func
    return decorator.id if isinstance(decorator, ast.Name) else ""


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _statement(text: str) -> ast.stmt:
    return ast.parse(text).body[0]


def _typed(method: _Method) -> list[ast.arg]:
    arguments = method.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [each for each in given if each.annotation is not None]


#: Classes whose fields are in a contract; those of arguments only.
_ALL = ("Line", "Order", "Category", "Address", "Transfer", "Payment", "Profile", "Filter")
_TAKEN = ("Address", "Transfer", "Payment", "Filter")
_WITH_ARGUMENTS = ("place", "get", "pay", "cancel", "totals", "register", "tree", "add")


# What breaks


def delete_service(code: Code) -> str:
    name = code.rng.choice(["Orders", "Customers", "Legacy", "Articles"])
    del code.classes[name].bases[:]
    code.tree.body.remove(code.classes[name])
    _without(code, name)
    return name


def _without(code: Code, name: str) -> None:
    """Remove *name* from the tuple of the services."""
    last = code.tree.body[-1]
    assert isinstance(last, ast.Assign)
    assert isinstance(last.value, ast.Tuple)
    last.value.elts = [
        each for each in last.value.elts if not (isinstance(each, ast.Name) and each.id == name)
    ]


def rename_service(code: Code) -> str:
    name = code.rng.choice(["Orders", "Customers", "Legacy", "Articles"])
    for node in code.classes[name].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "name":
            node.value = ast.Constant("renamed")
    return name


def delete_method(code: Code) -> str:
    cls, method = code.rng.choice(code.methods())
    cls.body.remove(method)
    return method.name


def rename_method(code: Code) -> str:
    method = code.method()
    method.name += "_now"
    return method.name


def delete_argument(code: Code) -> str:
    method = code.method(*_WITH_ARGUMENTS)
    arguments = method.args
    at = code.rng.randrange(1, len(arguments.args))
    gone = arguments.args.pop(at)
    first_default = len(arguments.args) + 1 - len(arguments.defaults)
    if at >= first_default:
        arguments.defaults.pop(at - first_default)
    method.decorator_list = [each for each in method.decorator_list if _name(each) == "rpc"]
    _plain_rpc(method)
    return f"{method.name}({gone.arg})"


def _plain_rpc(method: _Method) -> None:
    """Remove options of ``@rpc`` that name arguments."""
    for each in method.decorator_list:
        if isinstance(each, ast.Call) and _name(each) == "rpc":
            each.keywords = [one for one in each.keywords if one.arg != "sensitive_arguments"]


def rename_argument(code: Code) -> str:
    method = code.method("get", "cancel", "totals", "register", "tree", "place")
    argument = code.rng.choice([*method.args.args[1:], *method.args.kwonlyargs])
    argument.arg += "_now"
    return f"{method.name}({argument.arg})"


def swap_arguments(code: Code) -> str:
    method = code.method("place", "cancel", "register")
    arguments = method.args.args
    arguments[1], arguments[2] = arguments[2], arguments[1]
    return method.name


def new_required_argument(code: Code) -> str:
    method = code.method()
    arguments = method.args
    if code.rng.random() < 0.5:
        arguments.kwonlyargs.append(ast.arg("more_now", _expression("int")))
        arguments.kw_defaults.append(None)
    else:
        positional = arguments.args if len(arguments.args) > 0 else arguments.posonlyargs
        positional.insert(1, ast.arg("more_now", _expression("int")))
    return method.name


def require_argument(code: Code) -> str:
    method = code.method("place", "pay", "totals", "export", "add", "both")
    if method.args.defaults:
        del method.args.defaults[:]
    else:
        method.args.kw_defaults = [None for _ in method.args.kw_defaults]
    return method.name


def narrow_argument(code: Code) -> str:
    narrower = {
        "int": ["Annotated[int, msgspec.Meta(ge=1)]", "bool", "Literal[1, 2]", "str"],
        "str": ["Literal['day']", "Annotated[str, msgspec.Meta(max_length=9)]", "int", "date"],
        "UUID": ["int", "date"],
        "bool": ["int", "str"],
        "list[Line]": ["list[int]", "Line", "Annotated[list[Line], msgspec.Meta(min_length=1)]"],
        "Category": ["str", "Filter"],
        "Address": ["Filter", "list[Address]"],
        "Literal['late', 'wrong', 'other']": ["Literal['late']", "int"],
        "date | None": ["datetime | None"],
    }
    choices = [
        (method, each)
        for _, method in code.methods()
        for each in _typed(method)
        if ast.unparse(each.annotation) in narrower
    ]
    method, argument = code.rng.choice(choices)
    assert argument.annotation is not None
    new = code.rng.choice(narrower[ast.unparse(argument.annotation)])
    argument.annotation = _expression(new)
    return f"{method.name}({argument.arg}: {new})"


def change_result(code: Code) -> str:
    others = {
        "Order": ["Order | None", "Line", "list[Order]", "Any"],
        "Order | None": ["Order | None | int", "Line | None", "str"],
        "None": ["int", "str | None"],
        "bool": ["int", "bool | None"],
        "list[Order]": ["list[Line]", "list[Order | None]", "Order", "dict[str, Order]"],
        "dict[str, tuple[int, float]]": [
            *("dict[str, tuple[float, float]]", "dict[str, list[int]]"),
            *("dict[str, tuple[int, float, int]]", "dict[str, Any]"),
        ],
        "Profile": ["Profile | None", "Category", "str"],
        "Category": ["Line", "str", "Category | None"],
        "AsyncIterator[Order]": ["AsyncIterator[Line]", "AsyncIterator[Order | None]"],
        "int": ["float", "str"],
    }
    typed = [node for _, node in code.methods() if node.returns is not None]
    method = code.rng.choice([each for each in typed if ast.unparse(each.returns) in others])
    assert method.returns is not None
    new = code.rng.choice(others[ast.unparse(method.returns)])
    method.returns = _expression(new)
    return f"{method.name} -> {new}"


def delete_field(code: Code) -> str:
    cls, field = code.field(*_ALL)
    cls.body.remove(field)
    return f"{cls.name}.{ast.unparse(field.target)}"


def change_field_type(code: Code) -> str:
    cls, field = code.field(*_ALL)
    while ast.unparse(field.target) in ("tags", "parts"):
        cls, field = code.field(*_ALL)
    new = code.rng.choice(["bytes", "list[bytes]", "dict[str, bytes]"])
    optional = field.value is not None or "NotRequired" in ast.unparse(field.annotation)
    field.annotation = _expression(
        f"NotRequired[{new}]" if cls.name == "Filter" and optional else new
    )
    if field.value is not None:
        field.value = _expression("None")
        field.annotation = _expression(f"{new} | None")
    return f"{cls.name}.{ast.unparse(field.target)}: {new}"


def new_required_field(code: Code) -> str:
    cls = code.classes[code.rng.choice(["Line", "Category", *_TAKEN, "Profile"])]
    at = next(i for i, each in enumerate(cls.body) if isinstance(each, ast.AnnAssign))
    cls.body.insert(at, _statement(f"new_now: {code.rng.choice(['int', 'str', 'Line'])}"))
    return cls.name


def change_enum(code: Code) -> str:
    state = code.classes["State"]
    if code.rng.random() < 0.5:
        gone = state.body.pop(code.rng.randrange(3))
        if ast.unparse(gone).startswith(("PAID", "NEW")):  # named by the code
            state.body.append(_statement(ast.unparse(gone).replace("'", "'x", 1)))
        return f"without {ast.unparse(gone)}"
    state.body.append(_statement("LOST = 'lost'"))
    return "with LOST"


def delete_event(code: Code) -> str:
    method = code.method("place", "pay", "cancel")
    kept = [each for each in method.body if "dispatch" not in ast.unparse(each)]
    method.body = kept or [_statement("...")]
    return method.name


def change_event_field(code: Code) -> str:
    pay = code.method("pay")
    new = code.rng.choice(
        ["{'order_id': order_id}", "{'amount': 1.5}", "{'order_id': 'x', 'amount': 1.5}"]
    )
    pay.body = [_statement(f"await self.dispatch('paid', {new})")]
    return new


def stream_or_not(code: Code) -> str:
    if code.rng.random() < 0.5:
        export = code.method("export")
        export.returns, export.body = _expression("list[Order]"), [_statement("return []")]
        return "export: one result"
    get = code.method("get")
    get.returns, get.body = _expression("AsyncIterator[Order]"), [_statement("yield None")]
    return "get: a stream"


def drop_idempotency(code: Code) -> str:
    add = code.method("add")
    add.decorator_list[0] = _expression("rpc")
    return "add"


def delete_error(code: Code) -> str:
    text = code.rng.choice(["SoldOut", "NotFound"])
    place = code.method("place")
    place.decorator_list = [_expression(f"rpc(expected_exceptions={text})")]
    return f"place: only {text}"


def delete_handler(code: Code) -> str:
    cls, method = code.rng.choice(code.methods("event_handler", "consume"))
    if method.name == "on_placed" and code.rng.random() < 0.5:
        method.name += "_now"  # its queue has its name
    else:
        cls.body.remove(method)
    return method.name


def delete_route(code: Code) -> str:
    cls, method = code.rng.choice(code.methods("http"))
    cls.body.remove(method)
    return method.name


BREAKING: dict[Callable[[Code], str], tuple[str, ...]] = {
    delete_service: ("SERVICE_NO_DELETE",),
    rename_service: ("SERVICE_NO_DELETE",),
    delete_method: ("METHOD_NO_DELETE",),
    rename_method: ("METHOD_NO_DELETE",),
    delete_argument: ("METHOD_SAME_ARGUMENTS",),
    rename_argument: ("METHOD_SAME_ARGUMENTS",),
    swap_arguments: ("METHOD_SAME_ARGUMENTS",),
    new_required_argument: ("ARGUMENT_NO_NEW_REQUIRED",),
    require_argument: ("ARGUMENT_NO_NEW_REQUIRED",),
    narrow_argument: (
        *("ARGUMENT_SAME_TYPE", "ENUM_VALUE_NO_DELETE", "FIELD_SAME_TYPE"),
        *("FIELD_NO_DELETE", "FIELD_NO_NEW_REQUIRED"),
    ),
    change_result: ("METHOD_SAME_RESULT", "FIELD_SAME_TYPE", "FIELD_NO_DELETE"),
    delete_field: ("FIELD_NO_DELETE",),
    change_field_type: ("FIELD_SAME_TYPE",),
    new_required_field: ("FIELD_NO_NEW_REQUIRED",),
    change_enum: ("ENUM_VALUE_NO_DELETE", "ENUM_VALUE_NO_NEW"),
    delete_event: ("EVENT_NO_DELETE",),
    change_event_field: ("FIELD_NO_DELETE", "FIELD_SAME_TYPE"),
    stream_or_not: ("METHOD_SAME_STREAM",),
    drop_idempotency: ("METHOD_SAME_IDEMPOTENCY",),
    delete_error: ("ERROR_NO_DELETE",),
    delete_handler: ("HANDLER_NO_DELETE", "CONSUMER_NO_DELETE"),
    delete_route: ("ROUTE_NO_DELETE",),
}


# What breaks nothing


def add_service(code: Code) -> str:
    code.tree.body.insert(
        -1, _statement("class New:\n name = 'new'\n @rpc\n async def m(self): ...")
    )
    code.tree.body[-1].value.elts.append(ast.Name("New"))
    return "New"


def add_method(code: Code) -> str:
    cls, _ = code.rng.choice(code.methods())
    cls.body.append(
        _statement("@rpc\nasync def new_now(self, a: int, *, b: str = '') -> Order: ...")
    )
    return cls.name


def add_optional_argument(code: Code) -> str:
    method = code.method()
    arguments = method.args
    if code.rng.random() < 0.5 or arguments.vararg or arguments.posonlyargs:
        arguments.kwonlyargs.append(ast.arg("more_now", _expression("int")))
        arguments.kw_defaults.append(_expression("3"))
    else:
        arguments.args.append(ast.arg("more_now", _expression("Line | None")))
        arguments.defaults.append(_expression("None"))
    return method.name


def add_optional_field(code: Code) -> str:
    cls = code.classes[code.rng.choice(_ALL)]
    text = "new_now: NotRequired[int]" if cls.name == "Filter" else "new_now: int | None = None"
    cls.body.append(_statement(text))
    return cls.name


def add_field_of_result(code: Code) -> str:
    order = code.classes["Order"]
    order.body.insert(
        0, _statement(f"new_now: {code.rng.choice(['int', 'Line', 'dict[str, date]'])}")
    )
    return "Order"


def widen_argument(code: Code) -> str:
    wider = {
        "int": ["float", "int | None", "int | str"],
        "str": ["str | None", "str | int"],
        "UUID": ["UUID | None", "UUID | int"],
        "bool": ["bool | int", "Any"],
        "Literal['late', 'wrong', 'other']": ["Literal['late', 'wrong', 'other', 'x']", "str"],
        "list[Line]": ["list[Line | None]", "list[Line] | None", "Any"],
        "Address": ["Address | None"],
        "date | None": ["date | int | None"],
        "State": ["State | None", "str"],
    }
    choices = [
        (method, each)
        for _, method in code.methods()
        for each in _typed(method)
        if ast.unparse(each.annotation) in wider
    ]
    method, argument = code.rng.choice(choices)
    assert argument.annotation is not None
    new = code.rng.choice(wider[ast.unparse(argument.annotation)])
    argument.annotation = _expression(new)
    return f"{method.name}({argument.arg}: {new})"


def narrow_result(code: Code) -> str:
    narrower = {
        "get": ["Order", "None"],
        "search": ["Annotated[list[Order], msgspec.Meta(max_length=5)]"],
        "totals": [
            *("dict[str, tuple[int, int]]",),
            *("dict[str, tuple[int, Annotated[float, msgspec.Meta(ge=0)]]]",),
        ],
        "unchecked": ["Annotated[int, msgspec.Meta(ge=0)]"],
        "both": ["str", "Order"],
    }
    name = code.rng.choice(sorted(narrower))
    method = code.method(name)
    method.returns = _expression(code.rng.choice(narrower[name]))
    return f"{name} -> {ast.unparse(method.returns)}"


def change_docstrings(code: Code) -> str:
    for node in ast.walk(code.tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body.insert(0, _statement(f"'Another text {code.rng.random()}.'"))
    return "all"


def reorder_methods(code: Code) -> str:
    cls = code.classes[code.rng.choice(["Orders", "Customers", "Legacy", "Articles", "Web"])]
    defs = [each for each in cls.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
    rest = [each for each in cls.body if each not in defs]
    code.rng.shuffle(defs)
    cls.body = [*rest, *defs]
    return cls.name


def reorder_fields(code: Code) -> str:
    cls = code.classes[code.rng.choice(["Order", "Payment", "Address", "Profile"])]
    required = [each for each in cls.body if isinstance(each, ast.AnnAssign) and each.value is None]
    rest = [each for each in cls.body if each not in required]
    code.rng.shuffle(required)
    cls.body = [
        *(each for each in rest if isinstance(each, ast.Assign)),
        *required,
        *(each for each in rest if not isinstance(each, ast.Assign)),
    ]
    return cls.name


def rename_class(code: Code) -> str:
    old = code.rng.choice(["Order", "Line", "Category", "Payment", "State", "Filter"])
    text = re.sub(rf"\b{old}\b", f"{old}Now", ast.unparse(code.tree))
    code.tree = ast.parse(text)
    return old


def add_error(code: Code) -> str:
    method = code.method("get", "export", "totals", "tree")
    method.decorator_list = [_expression("rpc(expected_exceptions=(SoldOut, KeyError))")]
    return method.name


def make_idempotent(code: Code) -> str:
    method = code.method("get", "cancel", "tree")
    method.decorator_list = [_expression("rpc(idempotent=True)")]
    return method.name


def add_event(code: Code) -> str:
    method = code.method("get", "place")
    method.body.append(_statement("await self.dispatch('looked_at', {'id': 1})"))
    return method.name


def change_default(code: Code) -> str:
    name, text = code.rng.choice([("totals", "'week'"), ("pay", "State.SENT"), ("add", "True")])
    code.method(name).args.defaults[-1] = _expression(text)
    return name


def make_argument_optional(code: Code) -> str:
    method = code.method("get", "cancel", "register", "tree", "unchecked")
    method.args.defaults = [_expression("None")]
    return method.name


def make_field_optional(code: Code) -> str:
    cls = code.classes[code.rng.choice(["Address", "Transfer", "Filter"])]
    field = [each for each in cls.body if isinstance(each, ast.AnnAssign)][
        -1 if cls.name == "Address" else 0
    ]
    if cls.name == "Filter":
        field.annotation = ast.Subscript(ast.Name("NotRequired"), field.annotation)
    else:
        field.value = _expression("''")
    return cls.name


def relax_constraint(code: Code) -> str:
    old, new = code.rng.choice(
        [
            ("ge=0)]", "ge=-5)]"),
            ("min_length=3", "min_length=1"),
            ("max_length=10", "max_length=50"),
        ]
    )
    code.tree = ast.parse(ast.unparse(code.tree).replace(old, new))
    return new


def rename_positional_only(code: Code) -> str:
    code.method("search").args.posonlyargs[1].arg = "query"
    return "search"


def allow_position(code: Code) -> str:
    arguments = code.method("place").args
    arguments.args += arguments.kwonlyargs
    arguments.defaults = [each for each in arguments.kw_defaults if each is not None]
    arguments.kwonlyargs, arguments.kw_defaults = [], []
    return "place(express)"


def add_verb_or_route(code: Code) -> str:
    text = "@http('DELETE', '/orders/<int:number>')\nasync def gone(self, number: int) -> bool: ..."
    code.classes["Web"].body.append(_statement(text))
    return "DELETE"


def move_event(code: Code) -> str:
    pay = code.method("pay")
    event = pay.body.pop()
    pay.body.append(_statement("..."))
    code.method("get").body = [event]
    return "paid"


COMPATIBLE: tuple[Callable[[Code], str], ...] = (
    *(add_service, add_method, add_optional_argument, add_optional_field, add_field_of_result),
    *(widen_argument, narrow_result, change_docstrings, reorder_methods, reorder_fields),
    *(rename_class, add_error, add_event, change_default, make_argument_optional),
    *(make_field_optional, relax_constraint, rename_positional_only, allow_position),
    *(add_verb_or_route, move_event, make_idempotent),
)


def changed(seed: int, *, breaking: bool) -> Changed:
    """Return the services with the change number *seed*."""
    rng = random.Random(f"{breaking} {seed}")
    kinds = list(BREAKING if breaking else COMPATIBLE)
    kind = kinds[seed % len(kinds)]
    code = Code(rng)
    what = kind(code)
    for node in ast.walk(code.tree):
        if isinstance(node, ast.ClassDef) and not node.body:
            node.body = [ast.Pass()]
    source = ast.unparse(ast.fix_missing_locations(code.tree))
    return Changed(kind.__name__, what, BREAKING[kind] if breaking else (), source)

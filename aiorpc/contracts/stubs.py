"""
Writes a Python module for callers of a service: a Protocol with its methods, for the typed proxies,
and the classes of its arguments and results. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..exceptions import ConfigurationError, likely
from .model import Argument, Contract, OfferedMethod, Schema
from .python_types import Types, code_of, docstring, is_name, literal, references_in

__all__ = ["stub_of"]


def stub_of(contract: Contract, service: str) -> str:
    """
    Return the source code of the module for callers of *service*.

    Raises:
        ConfigurationError: the contract has no such service, or a method of it has a name that
            Python does not have.
    """
    if service not in contract.services:
        known = ", ".join(contract.services) or "none"
        raise ConfigurationError(
            f"the contract has no service {service!r}{likely(service, contract.services)}: it has "
            f"{known}"
        )
    found = contract.services[service]
    methods = found.methods
    for name in _names(methods):
        if not is_name(name):
            raise ConfigurationError(
                f"the contract of {service} has the name {name!r}, which cannot be a name in Python"
            )
    own = list(_schemas(methods))
    types = Types(_needed(contract.schemas, own), own, [each.name for each in methods])
    protocol = types.named(service)
    text = found.description or ("" if methods else "The service has no methods.")
    parts = [docstring(text, 1), *(_method(method, types) for method in methods)]
    body = "\n\n".join("\n".join(part) for part in parts if part)
    lines = [f"class {protocol}({types.use('Protocol')}):", body]
    title = docstring(
        f"The service {service}, for its callers::\n\n"
        f"    await cluster.typed({protocol}, {code_of(service)}).method(...)\n\n"
        f"Written by `aiorpc stubs {service}`.\nWrite it again instead of changing it.",
        0,
    )
    definitions = [*types.definitions(), "\n".join(lines)]
    head = [*title, "", "from __future__ import annotations", "", *types.imports()]
    return "\n".join(head).rstrip() + "\n\n\n" + "\n\n\n".join(definitions) + "\n"


def _names(methods: Iterable[OfferedMethod]) -> Iterator[str]:
    for method in methods:
        yield method.name
        for each in method.parameters:
            yield each.name


def _schemas(methods: Iterable[OfferedMethod]) -> Iterator[Schema]:
    for method in methods:
        yield method.result
        for each in method.parameters:
            yield each.schema


def _needed(schemas: Mapping[str, Schema], used: Iterable[Schema]) -> dict[str, Schema]:
    """Return those of *schemas* to which *used* refer, also by way of others."""
    found: dict[str, Schema] = {}
    left = list(used)
    while left:
        for name in references_in(left.pop()):
            if name in schemas and name not in found:
                found[name] = schemas[name]
                left.append(schemas[name])
    return found


def _method(method: OfferedMethod, types: Types) -> list[str]:
    result = types.of(method.result, f"{method.name}_result")
    if method.stream:
        head, result = "def", f"{types.use('AsyncIterator')}[{result}]"
    else:
        head = "async def"
    receiver = "_self" if any(each.name == "self" for each in method.parameters) else "self"
    arguments = ", ".join([receiver, *_arguments(method, types)])
    errors = [f"    {each.name}: {_first_line(each.description)}" for each in method.errors]
    raised = ["Raises:", *errors] if errors else []
    docs = docstring(method.description, 2, raised)
    line = f"    {head} {method.name}({arguments}) -> {result}:"
    return [line, *docs, "        ..."] if docs else [f"{line} ..."]


def _first_line(text: str) -> str:
    return text.partition("\n")[0] or "an error that the service expects."


def _arguments(method: OfferedMethod, types: Types) -> Iterator[str]:
    """Yield the parameters, with the ``/`` and the ``*`` that Python needs between them."""
    parameters = method.parameters
    slash = star = False
    for number, each in enumerate(parameters):
        if each.kind == "keyword_only" and not star:
            star = True
            yield "*"
        star = star or each.kind == "var_positional"
        yield _argument(each, types, f"{method.name}_{each.name}")
        following = parameters[number + 1 :]
        if each.kind == "positional_only" and not slash:
            slash = all(other.kind != "positional_only" for other in following)
            if slash:
                yield "/"


def _argument(argument: Argument, types: Types, place: str) -> str:
    kind = types.of(argument.schema, place)
    if argument.variadic:
        stars = "*" if argument.kind == "var_positional" else "**"
        return f"{stars}{argument.name}: {kind}"
    if argument.required:
        return f"{argument.name}: {kind}"
    default = argument.schema.get("default", ...)
    if default is None and not {*kind.split(" | ")} & {"None", "Any", "_Any"}:
        kind = f"{kind} | None"
    shown = "..." if default is ... else literal(default, argument.schema) or "..."
    return f"{argument.name}: {kind} = {shown}"

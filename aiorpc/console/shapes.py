"""
What the page gets as JSON: what the services are, and what they do now. Values and pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ..hosting.discovery.live_view import View
from ..hosting.discovery.shapes import DiscoveryAnswer, EndpointInfo, Info, Stats

__all__ = ["DescribedServices", "PageView", "described", "page_view"]


class RunningInstance(msgspec.Struct, kw_only=True):
    """
    One service in one process.

    Attributes:
        answers: whether it answered the last look. If not, it stopped, or something blocks its
            event loop.
        uptime: seconds since *started*; ``None``: an earlier aiorpc does not tell.
    """

    id: str
    service: str
    process: str
    version: str
    aiorpc: str
    worker: str
    answers: bool
    started: str = ""
    uptime: float | None = None


class PageView(msgspec.Struct, kw_only=True):
    """The figures of one look."""

    view: View
    instances: list[RunningInstance]


def page_view(
    view: View, answers: Iterable[DiscoveryAnswer], missing: Iterable[DiscoveryAnswer]
) -> PageView:
    """Return *view* with its instances: those with *answers*, and those that are *missing*."""
    instances = [_instance(each, answers=True) for each in answers]
    instances += [_instance(each, answers=False) for each in missing]
    instances.sort(key=lambda each: (each.service, each.process, each.id))
    return PageView(view=view, instances=instances)


def _instance(answer: DiscoveryAnswer, *, answers: bool) -> RunningInstance:
    instance = RunningInstance(
        id=answer.id,
        service=answer.name,
        process=answer.process,
        version=answer.version,
        aiorpc=answer.metadata.get("aiorpc", ""),
        worker=answer.metadata.get("worker", ""),
        answers=answers,
    )
    if isinstance(answer, Stats):
        instance.started, instance.uptime = answer.started, answer.uptime
    return instance


class DescribedMethod(msgspec.Struct, kw_only=True):
    """
    A method and its entrypoint.

    Attributes:
        kind: the class of the entrypoint (``Rpc``, ``Timer``, ...).
        facts: what else INFO says of the method.
    """

    name: str
    kind: str
    description: str
    queue: str | None
    route: str
    stream: bool
    facts: dict[str, str] = {}


class DescribedService(msgspec.Struct, kw_only=True):
    """A service. ``left_out``: the methods that an instance left out, because it has too many."""

    name: str
    version: str
    description: str
    metadata: dict[str, str]
    methods: list[DescribedMethod]
    left_out: int = 0


class DescribedServices(msgspec.Struct, kw_only=True):
    """All services that answer."""

    services: list[DescribedService]


#: The metadata of an endpoint that has an attribute of its own.
_KNOWN = frozenset({"kind", "description", "route", "stream"})


def described(infos: Sequence[Info]) -> DescribedServices:
    """Return what the services in *infos* are. Of two instances that differ, the newer one wins."""
    services: dict[str, DescribedService] = {}
    methods: dict[str, dict[tuple[str, str], DescribedMethod]] = {}
    for info in infos:
        own = methods.setdefault(info.name, {})
        for endpoint in info.endpoints:
            method = _method(endpoint)
            own[method.name, method.kind] = method
        services[info.name] = DescribedService(
            name=info.name,
            version=info.version,
            description=info.description,
            metadata=info.of_the_class,
            methods=list(own.values()),
            left_out=info.left_out,
        )
    return DescribedServices(services=list(services.values()))


def _method(endpoint: EndpointInfo) -> DescribedMethod:
    metadata = endpoint.metadata
    return DescribedMethod(
        name=endpoint.name,
        kind=metadata.get("kind", ""),
        description=metadata.get("description", ""),
        queue=endpoint.queue,
        route=metadata.get("route", ""),
        stream=metadata.get("stream") == "true",
        facts={name: text for name, text in metadata.items() if name not in _KNOWN},
    )

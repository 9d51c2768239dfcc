"""
YAML as kombu writes and reads it: PyYAML's safe loader, here with bounds. Pure functions; imports
PyYAML, so only a configuration with YAML imports this file.

The loader builds each value in Python, about 5 us for one, and the event loop waits. An alias costs
three bytes, and can stand for any number of values. So we count the values before we load them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import yaml

from .objects import MAX_DEPTH

__all__ = ["MAX_VALUES", "decode", "encoder"]

#: The most values of one body. A value counts again at each alias.
MAX_VALUES: Final = 50_000
#: The most characters of a number, as in Python's ``int()``. PyYAML needs quadratic time for 1:1:1.
_MAX_DIGITS: Final = 4300

#: The parser in C is six times as fast; some builds of PyYAML lack it.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """A class of our own, because a constructor of SafeLoader would affect all its users."""


def _bounded(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def number(loader: Any, node: Any) -> Any:
        if len(node.value) > _MAX_DIGITS:
            raise ValueError(f"a number has {len(node.value)} characters, more than {_MAX_DIGITS}")
        return construct(loader, node)

    return number


for _kind in ("int", "float"):
    _tag = f"tag:yaml.org,2002:{_kind}"
    _Loader.add_constructor(_tag, _bounded(_Base.yaml_constructors[_tag]))


def decode(data: bytes) -> Any:
    """
    Return the value of YAML *data*.

    Raises:
        ValueError: *data* has more than :data:`MAX_VALUES` values, or contains itself.
        RecursionError: it is nested too deep.
        Exception: it is not YAML, or has a tag that is not safe.
    """
    _require_bounded(data)
    return yaml.load(data, _Loader)


def _require_bounded(data: bytes) -> None:
    values = 0
    #: The open collections: the anchor of each, and how many values came before it.
    opened: list[tuple[str | None, int]] = []
    sizes: dict[str, int] = {}
    for event in yaml.parse(data, _Base):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            if any(anchor == name for anchor, _ in opened):
                raise ValueError(f"the value of the anchor {name[:40]!r} contains itself")
            values += sizes.get(name, 1)
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, values))
                if len(opened) > MAX_DEPTH:
                    raise RecursionError
            elif event.anchor is not None:
                sizes[event.anchor] = 1
            values += 1
        if values > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES} values: send fewer, or send JSON")


def encoder(reduce: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    """Return a function that writes YAML. *reduce* converts other types to those that YAML has."""

    class Dumper(yaml.SafeDumper):
        """A class of our own, because a representer of SafeDumper would affect all its users."""

    Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_data(reduce(value)))

    def encode(value: Any) -> bytes:
        text: str = yaml.dump(value, Dumper=Dumper)
        return text.encode("utf-8")

    return encode

"""
The commands that make a quorum queue of a classic one, without losing a message. Pure functions.

RabbitMQ changes the type of no queue. So the messages move to a second queue, the first one is
deleted and made again as a quorum queue, and the messages move back. New messages always have a
queue: a binding is made before the other one is removed. A message that arrives between the two
commands is in both queues, and runs twice.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

__all__ = ["to_quorum"]

#: Arguments that quorum queues do not have (RabbitMQ 3.10 to 4.3), or that name the type.
_OF_CLASSIC = {"x-queue-type", "x-max-priority", "x-queue-mode", "x-queue-version"}


def to_quorum(
    api: str,
    vhost: str,
    queue: str,
    arguments: Mapping[str, Any],
    bindings: Sequence[Mapping[str, Any]],
) -> list[str]:
    """
    Return the commands for a shell.

    Args:
        api: the URL of the management API, without a password.
        arguments: of the classic queue.
        bindings: of the queue, as the management API lists them.
    """
    held = f"{queue}.moving"
    kept = {name: value for name, value in arguments.items() if name not in _OF_CLASSIC}
    kept["x-queue-type"] = "quorum"
    bound = [each for each in bindings if each["source"]]
    moves = _Moves(vhost)
    return [
        f"export API={shlex.quote(f'{api}/api')} LOGIN=USER:PASSWORD  # an administrator",
        "rabbitmq-plugins enable rabbitmq_shovel  # on the node",
        f"# stop every process that consumes {queue}",
        *moves.declare(held, {"x-queue-type": "classic"}),  # quorum ones ignore if-empty
        *moves.rebind(bound, queue, held),
        *moves.shovel(queue, held),
        *moves.delete(queue),
        *moves.declare(queue, kept),
        *moves.rebind(bound, held, queue),
        *moves.shovel(held, queue),
        *moves.delete(held),
        f'# set QUEUE_OPTIONS: {{"{queue}": {{type: quorum}}}}, and start the processes',
    ]


class _Moves:
    """Makes single commands, for one vhost."""

    def __init__(self, vhost: str) -> None:
        self._vhost = _part(vhost)
        self._uri = f"amqp:///{self._vhost}"

    def declare(self, queue: str, arguments: Mapping[str, Any]) -> Iterator[str]:
        body = {"durable": True, "arguments": dict(arguments)}
        yield _curl("PUT", f"queues/{self._vhost}/{_part(queue)}", body)

    def rebind(self, bindings: Sequence[Mapping[str, Any]], old: str, new: str) -> Iterator[str]:
        for each in bindings:
            between = f"bindings/{self._vhost}/e/{_part(each['source'])}/q"
            body = {"routing_key": each["routing_key"], "arguments": each["arguments"]}
            added = _curl("POST", f"{between}/{_part(new)}", body)
            removed = _curl("DELETE", f"{between}/{_part(old)}/{_part(each['properties_key'])}")
            yield f"{added} && {removed}"

    def shovel(self, source: str, target: str) -> Iterator[str]:
        path = f"parameters/shovel/{self._vhost}/{_part(f'move-{source}')}"
        value = {
            "src-protocol": "amqp091",
            "src-uri": self._uri,
            "src-queue": source,
            "src-delete-after": "queue-length",
            "dest-protocol": "amqp091",
            "dest-uri": self._uri,
            "dest-queue": target,
            "ack-mode": "on-confirm",
        }
        started = _curl("PUT", path, {"value": value})
        # The shovel removes itself when it has moved the messages.
        yield f"{started} && while {_curl('GET', path)} -o /dev/null 2>&1; do sleep 1; done"

    def delete(self, queue: str) -> Iterator[str]:
        # The broker refuses this if a message came back, or if somebody consumes.
        yield _curl("DELETE", f"queues/{self._vhost}/{_part(queue)}?if-empty=true&if-unused=true")


def _curl(method: str, path: str, body: Mapping[str, Any] | None = None) -> str:
    command = f'curl -sSf -u "$LOGIN" -X {method} "$API/{path}"'
    if body is None:
        return command
    return f"{command} -H 'content-type: application/json' -d {shlex.quote(json.dumps(body))}"


def _part(name: str) -> str:
    return quote(name, safe="")

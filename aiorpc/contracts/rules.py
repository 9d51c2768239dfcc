"""
The rules of ``aiorpc contract diff``: what a new contract may not change. Values only.

The ids are stable, in Buf's manner: scripts and reviews may name them.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

__all__ = ["RULES", "Break", "Hurt", "Rule"]

Rule: TypeAlias = Literal[
    "SERVICE_NO_DELETE",
    "METHOD_NO_DELETE",
    "METHOD_SAME_ARGUMENTS",
    "METHOD_SAME_RESULT",
    "METHOD_SAME_STREAM",
    "METHOD_SAME_IDEMPOTENCY",
    "ARGUMENT_NO_NEW_REQUIRED",
    "ARGUMENT_SAME_TYPE",
    "FIELD_NO_DELETE",
    "FIELD_NO_NEW_REQUIRED",
    "FIELD_SAME_PRESENCE",
    "FIELD_SAME_TYPE",
    "ENUM_VALUE_NO_DELETE",
    "ENUM_VALUE_NO_NEW",
    "ERROR_NO_DELETE",
    "EVENT_NO_DELETE",
    "EVENT_SAME_PAYLOAD",
    "HANDLER_NO_DELETE",
    "HANDLER_SAME_PAYLOAD",
    "CONSUMER_NO_DELETE",
    "ROUTE_NO_DELETE",
]
#: Who gets into trouble: the callers of the method, the service itself, or handlers of its events.
Hurt: TypeAlias = Literal["callers", "the service", "handlers"]

RULES: dict[Rule, str] = {
    "SERVICE_NO_DELETE": "The service is gone, or has another name.",
    "METHOD_NO_DELETE": "The method is gone, or has another name.",
    "METHOD_SAME_ARGUMENTS": "A call that named or placed its arguments as before is refused.",
    "METHOD_SAME_RESULT": "The result may be a value of another type.",
    "METHOD_SAME_STREAM": "A stream became one result, or one result a stream.",
    "METHOD_SAME_IDEMPOTENCY": "A call with an idempotency key is refused.",
    "ARGUMENT_NO_NEW_REQUIRED": "A call without this argument is refused.",
    "ARGUMENT_SAME_TYPE": "A value that the argument could have is refused.",
    "FIELD_NO_DELETE": "A field that callers send or read is gone.",
    "FIELD_NO_NEW_REQUIRED": "An argument without this field is refused.",
    "FIELD_SAME_PRESENCE": "A field that was always there may be missing.",
    "FIELD_SAME_TYPE": "A field is refused with a value that it could have, or has another type.",
    "ENUM_VALUE_NO_DELETE": "A value that callers send is refused.",
    "ENUM_VALUE_NO_NEW": "Callers get a value that they do not know.",
    "ERROR_NO_DELETE": "Callers that catch this error get another one, or none.",
    "EVENT_NO_DELETE": "The service no longer dispatches the event.",
    "EVENT_SAME_PAYLOAD": "The payload of the event may be a value of another type.",
    "HANDLER_NO_DELETE": "Nobody consumes the queue of the handler, and it fills up.",
    "HANDLER_SAME_PAYLOAD": "The handler refuses events that it handled, also those that wait.",
    "CONSUMER_NO_DELETE": "The service no longer consumes the queue, and it fills up.",
    "ROUTE_NO_DELETE": "HTTP requests for this path, or with this method, fail.",
}


class Break(msgspec.Struct, frozen=True, rename={"now": "is"}):
    """
    What a new contract breaks.

    Attributes:
        where: the service, the method, and the argument or the field.
        method: ``service.method``, whose callers it hurts; only the service: all of its methods.
    """

    rule: Rule
    where: str
    was: str
    now: str
    hurts: Hurt
    method: str

    def __str__(self) -> str:
        return f"{self.rule} {self.where}: was {self.was}, is {self.now}; hurts {self.hurts}"

"""What is re-sent when RabbitMQ closed a channel or the connection was lost."""

from __future__ import annotations

from typing import Any

import pytest

from aiorpc.exceptions import AioRpcError, ConfigurationError, ConnectionLost, Unroutable
from aiorpc.transports.amqp.errors import Refused
from aiorpc.transports.amqp.resend import AmqpRefusal, sort_out
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message


def message(body: bytes = b"x", *, exchange: str = "x", **options: Any) -> Outgoing:
    expiration = options.pop("expiration", None)
    return Outgoing(
        exchange=exchange,
        routing_key="k",
        message=Message(body=body, expiration=expiration),
        settled=list[AioRpcError | None]().append,
        **options,
    )


def outcomes(outgoing: Outgoing) -> list[Any]:
    """What *outgoing* settled with; ``settled`` appends to it."""
    return outgoing.settled.__self__


def same(sent: Message) -> Message:
    return sent


def sorted_out(refused: Refused | None, *outgoing: Outgoing) -> list[Outgoing]:
    refusal = None if refused is None else AmqpRefusal(refused, "there")
    return list(sort_out(dict(enumerate(outgoing, 1)), refusal))


def test_after_a_lost_connection_the_sender_decides() -> None:
    changed = Message(body=b"changed")
    agrees, declines = message(again=lambda sent: changed), message(again=lambda sent: None)
    silent, unconfirmed = message(), message(confirm=False, again=same)
    returning = sorted_out(None, agrees, declines, silent, unconfirmed)
    assert returning == [agrees]
    assert agrees.message is changed
    assert outcomes(agrees) == outcomes(unconfirmed) == []
    for lost in (declines, silent):
        assert [type(error) for error in outcomes(lost)] == [ConnectionLost]


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (Refused(404, "NOT_FOUND - no exchange 'gone' in vhost '/'"), Unroutable),
        (Refused(403, "ACCESS_REFUSED - access to exchange 'gone' in vhost"), ConfigurationError),
        (Refused(406, "PRECONDITION_FAILED - message size 3 is larger than"), AioRpcError),
    ],
)
def test_only_the_message_that_the_broker_refused_fails(
    refused: Refused, kind: type[AioRpcError]
) -> None:
    before, culprit = message(again=same), message(b"big", exchange="gone", again=same)
    behind, unconfirmed = message(), message(b"y", confirm=False)
    returning = sorted_out(refused, before, culprit, behind, unconfirmed)
    assert [each.message.body for each in returning] == [b"x", b"x", b"y"]
    assert returning[:2] == [before, behind]
    assert returning[2].settled is None  # it was settled when it was written
    (error,) = outcomes(culprit)
    assert isinstance(error, kind)
    assert "'gone'" in str(error)


def test_a_request_before_the_refused_message_is_not_resent_because_its_answer_comes() -> None:
    class Request(Outgoing, eq=False, kw_only=True):
        is_request = True

    request = Request(exchange="x", routing_key="k", message=Message(body=b"x"), again=same)
    refused = Refused(404, "NOT_FOUND - no exchange 'gone' in vhost '/'")
    assert sorted_out(refused, request, message(exchange="gone"), request) == [request]


def test_a_message_is_resent_once_if_the_reason_names_none() -> None:
    refused = Refused(406, "PRECONDITION_FAILED - something new")
    outgoing = message(again=same)
    assert sorted_out(refused, outgoing) == [outgoing]
    assert sorted_out(refused, outgoing) == []
    (error,) = outcomes(outgoing)
    assert "something new" in str(error)

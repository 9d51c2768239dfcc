"""Names the AMQP frames in bytes that a process writes. Pure functions."""

from __future__ import annotations

from struct import unpack_from

_METHODS = {
    (60, 20): "basic.consume",
    (60, 30): "basic.cancel",
    (60, 40): "basic.publish",
    (60, 80): "basic.ack",
    (60, 90): "basic.reject",
    (60, 120): "basic.nack",
}
_METHOD = 1


def described(data: bytes) -> str:
    """Return the frequent methods in *data*, with the exchanges of messages; empty: none."""
    found: list[str] = []
    at = 0
    while at + 7 <= len(data):
        kind, _, size = unpack_from(">BHI", data, at)
        if kind == _METHOD:
            method = unpack_from(">HH", data, at + 7)
            name = _METHODS.get(method, "")
            if name == "basic.publish":
                length = data[at + 13]
                exchange = data[at + 14 : at + 14 + length].decode()
                name += f" to {exchange or 'a queue'}"
            if name and name not in found:
                found.append(name)
        at += 7 + size + 1
    return " and ".join(found)

"""
A proxy that spoils the broker's bytes, by a seed. The same seed spoils the same frame number of the
same connection in the same way. It imports nothing of aiorpc.
"""

from __future__ import annotations

import asyncio
from random import Random
from struct import pack

from tests.support.amqp_proxy import Proxy

__all__ = ["KINDS", "SpoilingProxy"]

KINDS = (
    "flip",
    "garble",
    "drop",
    "double",
    "cut",
    "halve",
    "delay",
    "swap",
    "closed channel",
    "channel close",
    "larger size",
    "smaller size",
    "endless size",
)
#: Frames that the broker sends while a connection gets its consumers, and until some calls ended.
_OPENED, _FRAMES = 25, 60
#: Seconds at most for which a frame is late.
_DELAY = 1.0
#: A channel that no transport opens.
_CLOSED = 1999


class SpoilingProxy(Proxy):
    """
    Spoils frames of one of the first *connections* connections, and in some plans also of the two
    that replace lost ones.

    Attributes:
        kind: how, one of `KINDS`.
        plan: the numbers of the spoiled frames, by the number of the connection.
        spoiled: frames that were spoiled.
    """

    def __init__(self, url: str, seed: int, *, connections: int) -> None:
        super().__init__(url)
        rng = self._rng = Random(seed)
        self.kind = rng.choice(KINDS)
        self.plan = {rng.randrange(connections): self._frames(_FRAMES)}
        if rng.random() < 0.3:
            self.plan |= {connections + each: self._frames(_OPENED) for each in range(2)}
        self.spoiled = 0
        self._passed: dict[asyncio.StreamWriter, int] = {}
        self._kept = b""

    def _frames(self, below: int) -> list[int]:
        first, more = self._rng.randrange(below), self._rng.choice([0, 0, 1, 3])
        return sorted({first, *(first + self._rng.randint(1, 9) for _ in range(more))})

    def __str__(self) -> str:
        places = [f"frames {frames} of connection {each}" for each, frames in self.plan.items()]
        return f"{self.kind}: {', '.join(places)}"

    async def _pass_on(self, frame: bytes, client: asyncio.StreamWriter) -> None:
        if client.is_closing():
            raise ConnectionResetError
        number = self._passed.setdefault(client, 0)
        self._passed[client] += 1
        if number in self.plan.get(list(self._passed).index(client), ()):
            self.spoiled += 1
            frame = await self._spoil(frame, client)
        elif self._kept:
            frame, self._kept = frame + self._kept, b""
        if frame:
            await super()._pass_on(frame, client)

    async def _spoil(self, frame: bytes, client: asyncio.StreamWriter) -> bytes:
        rng = self._rng
        at = rng.randrange(len(frame))
        match self.kind:
            case "flip":
                return frame[:at] + bytes([frame[at] ^ 1 << rng.randrange(8)]) + frame[at + 1 :]
            case "garble":
                return frame[:7] + rng.randbytes(len(frame) - 8) + frame[-1:]
            case "drop":
                return b""
            case "double":
                return frame * 2
            case "cut":
                client.write(frame[:at])
                raise ConnectionResetError
            case "halve":
                return frame[:at]
            case "delay":
                await asyncio.sleep(rng.random() * _DELAY)
                return frame
            case "swap":
                self._kept = frame
                return b""
            case "closed channel":
                return frame[:1] + pack(">H", _CLOSED) + frame[3:] + frame
            case "channel close":
                close = pack(">HHH", 20, 40, rng.choice([0, 200, 404, 406, 541])) + b"\1?\0\0\0\0"
                return _framed(1, rng.randint(0, 3), close) + frame
            case "larger size":
                return _resized(frame, rng.randint(1, 40))
            case "smaller size":
                return _resized(frame, -rng.randint(1, 40))
            case _:
                return (
                    frame[:3] + pack(">I", rng.choice([1 << 31, 131_065, 0xFFFFFFFF])) + frame[7:]
                )


def _framed(kind: int, channel: int, payload: bytes) -> bytes:
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def _resized(frame: bytes, change: int) -> bytes:
    size = int.from_bytes(frame[3:7], "big")
    return frame[:3] + pack(">I", max(0, size + change)) + frame[7:]

"""
Opens the body of a message in the user's editor. Starts a process, and does I/O on one file.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

import msgspec

from ..exceptions import ConfigurationError, MalformedRequest
from ..parked.bodies import without_compression
from ..parked.messages import ParkedMessage
from ..wire.message import Message
from .output import print_note

__all__ = ["edit", "editor_of"]


def editor_of() -> list[str]:
    """
    Return the command of ``$VISUAL`` or ``$EDITOR``, or else vi.

    Raises:
        ConfigurationError: it cannot be read as a command.
    """
    for name in ("VISUAL", "EDITOR"):
        if command := os.environ.get(name, "").strip():
            try:
                return shlex.split(command)
            except ValueError as error:
                raise ConfigurationError(f"${name} is {command!r}: {error}") from None
    return ["vi"]


async def edit(parked: ParkedMessage, message: Message) -> Message | None:
    """
    Return *message* with the body that the user wrote; ``None`` if the user gives up: the editor
    fails, or leaves no file, or JSON that is wrong.

    JSON is indented for the editor. A body that the user does not change is sent as it is.

    Raises:
        ConfigurationError: the editor cannot be started.
    """
    try:
        plain = without_compression(message)
    except MalformedRequest as error:
        print_note(f"message {parked.position}: {error}")
        return None
    shown, is_json = _for_editor(plain.body)
    with tempfile.TemporaryDirectory(prefix="aiorpc-") as directory:  # only its owner can read it
        path = Path(directory) / f"{parked.id}{'.json' if is_json else '.txt'}"
        path.write_bytes(shown)
        while True:
            if not await _ran(path) or not path.exists():
                return None
            written = path.read_bytes()
            if not (is_json and (fault := _fault_of(written))):
                break
            if not await _again(f"this is not JSON: {fault}. Edit it again?"):
                return None
    if written == shown:
        return message
    if is_json:
        return msgspec.structs.replace(plain, body=written, content_encoding="utf-8")
    if not shown.endswith(b"\n"):
        written = written.removesuffix(b"\n")  # editors add one
    return msgspec.structs.replace(plain, body=written)


def _fault_of(text: bytes) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""


async def _again(question: str) -> bool:
    """Ask on the terminal. The loop keeps running, so the connection stays alive."""
    print(f"{question} [Y/n] ", end="", file=sys.stderr, flush=True)
    loop = asyncio.get_running_loop()
    typed = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    answer = sys.stdin.readline()
    return bool(answer) and answer.strip().lower() not in ("n", "no")


def _for_editor(body: bytes) -> tuple[bytes, bool]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body, False
    return json.dumps(value, indent=2, ensure_ascii=False).encode(errors="surrogatepass"), True


async def _ran(path: Path) -> bool:
    """Run the editor to its end. Return whether it ended well."""
    command = editor_of()
    try:
        process = await asyncio.create_subprocess_exec(*command, str(path))
    except OSError as error:
        raise ConfigurationError(
            f"the editor {command[0]!r} cannot be started: {error.strerror}. Set $EDITOR"
        ) from None
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        raise
    if code:
        print_note(f"{command[0]} ended with code {code}")
    return code == 0

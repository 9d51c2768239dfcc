"""What the demo calls: the library and its members, a stream, and the gateway over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any
from urllib.request import Request, urlopen

from aiorpc import AioRpcError, ServiceProxy
from services.library.library import NotAvailable


async def borrow_books(library: ServiceProxy, members: ServiceProxy) -> None:
    print("\nORM objects as arguments and results, from three databases:")
    ada = await show('await members.join("Ada")', members.join("Ada"))
    austen = {"name": "Austen", "books": [{"title": "Emma"}]}
    await show(f"await library.add_author({austen})", library.add_author(austen))
    (emma, *_) = await show('await library.find_books("Em")', library.find_books("Em"))
    print("\na loan, and a second one of the same book:")
    code = f"await library.lend({emma['id']}, {ada['id']})"
    await show(code, library.lend(emma["id"], ada["id"]))
    await show(code, library.lend(emma["id"], ada["id"]))
    await show(f"await library.give_back({emma['id']})", library.give_back(emma["id"]))
    print("\nall books, one after the other:")
    async for book in library.export.stream():
        print(f"  {book}")
    print("\nan argument that is not valid:")
    await show("await library.add_author({})", library.add_author({}))


async def read_letters(letters: ServiceProxy) -> None:
    print("\na handler of the event failed, and wrote the letter at its second attempt:")
    async for letter in letters.sent.stream():
        print(f"  {letter}")
        break


async def over_http(url: str) -> None:
    print("\nthe same library over HTTP:")
    headers = {"Content-Type": "application/json", "Authorization": "Bearer reading-is-fun"}
    request = Request(url, b'{"title": "Em"}', headers)
    with await asyncio.to_thread(urlopen, request, timeout=10) as response:
        print(f"  POST {request.selector}\n    -> {response.status} {response.read().decode()}")


async def show(code: str, call: Awaitable[Any]) -> Any:
    """Print *code* and its outcome; return the result."""
    result = None
    try:
        result = await call
        outcome = repr(result)
    except (AioRpcError, NotAvailable) as error:
        outcome = f"{type(error).__name__}: {error}"
    print(f"  {code}\n    -> {outcome}")
    return result

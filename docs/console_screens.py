"""
Makes the pictures of ``console.md``: a small shop on ``memory://``, under load, in Chromium::

    python docs/console_screens.py              write docs/images/console-*.webp
    python docs/console_screens.py --serve      serve the shop's console until Ctrl-C, to look at it

It needs playwright and a Chromium (Debian: ``apt-get install chromium``).
"""

from __future__ import annotations

import asyncio
import base64
import random
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal

from playwright.async_api import Browser, Page, async_playwright

from aiorpc import (
    ClusterRpcProxy,
    EventDispatcher,
    RemoteError,
    Retry,
    RpcProxy,
    ServiceContainer,
    event_handler,
    rpc,
    timer,
)
from aiorpc.config import resolve
from aiorpc.console import ConsoleServer

IMAGES = Path(__file__).with_name("images")
BROKER = "memory://shop"
#: Seconds for which the shop works before the pictures: the small charts need some looks.
WORKING = 75.0
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 400, "height": 800}


async def works(milliseconds: float) -> None:
    """Take about so long."""
    await asyncio.sleep(random.expovariate(1000 / milliseconds))


@dataclass
class Line:
    """A title and the number of its copies."""

    title: str
    copies: int = 1


class Shop:
    """Sells books: quotes prices, takes orders, and tells others what it sold."""

    name = "shop"
    version = "1.4.0"
    metadata: ClassVar = {"team": "sales", "runbook": "https://wiki.example/shop"}
    stock = RpcProxy("stock")
    payments = RpcProxy("payments")
    search = RpcProxy("search")
    dispatch = EventDispatcher()

    @rpc
    async def quote(self, title: str, copies: int = 1) -> Decimal:
        """Return the price of some copies of a title."""
        await self.stock.copies(title)
        await works(2)
        return Decimal("9.90") * copies

    @rpc(sensitive_arguments="card")
    async def buy(
        self,
        lines: list[Line],
        card: str,
        currency: Literal["EUR", "USD", "GBP"] = "EUR",
        gift: bool = False,
        note: str | None = None,
    ) -> dict[str, Any]:
        """Take an order, charge the card, and send the books."""
        for line in lines:
            await self.stock.reserve(line.title, line.copies)
        receipt = await self.payments.charge(card, "9.90", currency)
        await self.dispatch("sold", {"titles": [line.title for line in lines], "card": card})
        return {"receipt": receipt, "lines": lines, "gift": gift}

    @rpc
    async def browse(self, words: str) -> AsyncIterator[str]:
        """Stream the titles that fit some words, the best first."""
        for title in await self.search.find(words):
            yield title

    @timer(interval=5)
    async def forget_baskets(self) -> None:
        """Empty the baskets that nobody touched for a day."""
        await works(20)


class Stock:
    """Knows how many copies of each title are left, and where they are."""

    name = "stock"
    version = "2.0.1"
    dispatch = EventDispatcher()

    @rpc
    async def copies(self, title: str) -> int:
        """Return how many copies of a title are left."""
        await works(3)
        return 3

    @rpc
    async def reserve(self, title: str, copies: int = 1) -> bool:
        """Put copies aside for an order."""
        await works(6)
        if random.random() < 0.01:
            await self.dispatch("low", {"title": title})
        return True

    @event_handler("shop", "sold")
    async def count(self, sold: dict[str, Any]) -> None:
        """Subtract what was sold."""
        await works(4)


class Payments:
    """Charges cards."""

    name = "payments"
    version = "3.2.0"
    dispatch = EventDispatcher()

    @rpc(sensitive_arguments="card")
    async def charge(
        self, card: str, amount: Decimal, currency: Literal["EUR", "USD", "GBP"]
    ) -> str:
        """Charge a card, and return the number of the receipt."""
        await works(30)
        if random.random() < 0.04:
            raise ValueError("the bank refused the card")
        await self.dispatch("charged", {"amount": str(amount), "currency": currency})
        return f"R-{random.randrange(10**6):06}"


class Search:
    """Finds titles."""

    name = "search"
    version = "0.9.3"

    @rpc
    async def find(self, words: str, most: int = 10) -> list[str]:
        """Return the titles that fit some words."""
        await works(12)
        return ["Emma", "Persuasion", "Northanger Abbey"][:most]


class Mailer:
    """Writes to customers and to the warehouse."""

    name = "mailer"
    version = "1.0.0"

    @event_handler(
        "shop", "sold", retry=Retry(immediate=0, delays=()), sensitive_arguments="sold.card"
    )
    async def confirm(self, sold: dict[str, Any]) -> None:
        """Send the confirmation of an order."""
        await works(15)
        if random.random() < 0.06:
            raise ConnectionError("smtp.example: 421 too many connections")

    @event_handler("stock", "low")
    async def order_copies(self, low: dict[str, Any]) -> None:
        """Ask the publisher for more copies."""
        await works(15)


class Ledger:
    """Books what was charged."""

    name = "ledger"
    version = "1.1.0"

    @event_handler("payments", "charged", retry=Retry(immediate=0, delays=()))
    async def book(self, charged: dict[str, Any]) -> None:
        """Write an entry."""
        await works(8)
        if random.random() < 0.004:
            raise ArithmeticError("the books of 2026-11 are closed")


class Reports:
    """Sums up the day."""

    name = "reports"
    version = "1.0.0"
    stock = RpcProxy("stock")
    shop = RpcProxy("shop")

    @timer(interval=3)
    async def refresh(self) -> None:
        """Read the figures of the day."""
        await self.stock.copies("Emma")
        await self.shop.quote("Emma")


SERVICES = (Shop, Stock, Payments, Search, Mailer, Ledger, Reports)


@asynccontextmanager
async def shop_under_load() -> AsyncGenerator[None]:
    """Host the services, two instances of two of them, and call them until the block ends."""
    settings = resolve({"AMQP_URI": BROKER})
    async with AsyncExitStack() as stack:
        for service in (*SERVICES, Shop, Stock):
            await stack.enter_async_context(ServiceContainer(service, settings))
        cluster = await stack.enter_async_context(ClusterRpcProxy(settings))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        callers = [tasks.create_task(visit(cluster)) for _ in range(12)]
        yield
        for each in callers:
            each.cancel()


async def visit(cluster: Any) -> None:
    """Look around in the shop, and buy sometimes."""
    while True:
        try:
            await cluster.search.find("austen")
            for _ in range(random.randrange(4)):
                await cluster.shop.quote("Emma")
            if random.random() < 0.5:
                lines = [{"title": "Emma", "copies": 1}]
                await cluster.shop.buy(lines, card="4111 1111 1111 1111")
        except RemoteError:
            pass  # the card was refused
        await asyncio.sleep(random.expovariate(5))


@asynccontextmanager
async def console(port: int = 0) -> AsyncGenerator[str]:
    """Serve the console of the shop, and yield its URL with the token."""
    settings = resolve({"AMQP_URI": BROKER})
    one = ConsoleServer(settings, f"127.0.0.1:{port}", allow_changes=True, interval=0.8, wait=0.3)
    async with shop_under_load(), one.open() as url:
        yield f"{url}/#token={one.token}"


async def look_around(page: Page) -> AsyncIterator[str]:
    """Show one view after the other, and yield its name when it is whole."""
    await page.get_by_role("link", name="buy", exact=True).wait_for()
    yield "services"
    await page.goto(page.url.partition("#")[0] + "#/services/shop/quote")
    await page.get_by_label("title").fill("Emma")
    await page.get_by_label("copies").fill("3")
    await page.get_by_role("button", name="Call").click()
    await page.get_by_label("Result").wait_for()
    yield "method"
    await page.goto(page.url.partition("#")[0] + "#/calls")
    await page.get_by_role("link", name="shop:").wait_for()
    yield "calls"
    await page.goto(page.url.partition("#")[0] + "#/parked/evt-shop-sold--mailer.confirm.parked")
    await page.get_by_role("heading", name="Messages").wait_for()
    yield "parked"


async def pictures(browser: Browser, url: str, folder: Path) -> None:
    """Write a picture of each view: wide in both themes, narrow in one."""
    base = await browser.new_page(viewport=WIDE)
    await base.goto(url)
    await asyncio.sleep(WORKING)
    for theme, size in (("light", WIDE), ("dark", WIDE), ("light", NARROW)):
        await base.set_viewport_size(size)
        await base.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        await base.goto(url.partition("#")[0] + "#/services")
        async for view in look_around(base):
            end = "-narrow" if size is NARROW else f"-{theme}"
            picture = await base.screenshot()
            (folder / f"console-{view}{end}.webp").write_bytes(await as_webp(browser, picture))


async def as_webp(browser: Browser, png: bytes) -> bytes:
    """Return a picture in a third of its bytes; the browser makes it."""
    page = await browser.new_page()
    text = await page.evaluate(
        """async (url) => {
            const image = await createImageBitmap(await (await fetch(url)).blob());
            const canvas = new OffscreenCanvas(image.width, image.height);
            canvas.getContext("2d").drawImage(image, 0, 0);
            const blob = await canvas.convertToBlob({ type: "image/webp", quality: 0.9 });
            const bytes = new Uint8Array(await blob.arrayBuffer());
            return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
        }""",
        f"data:image/png;base64,{base64.b64encode(png).decode()}",
    )
    await page.close()
    return base64.b64decode(text)


async def main() -> None:
    if "--serve" in sys.argv:
        async with console(8800) as url:
            print(url, flush=True)
            await asyncio.Event().wait()
    folder = Path(sys.argv[1]) if sys.argv[1:] else IMAGES
    folder.mkdir(exist_ok=True)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    async with console() as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program)
        await pictures(browser, url, folder)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())

"""The page in Chromium: what it shows, by mouse and by keyboard, and what other pages cannot do."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp

from aiorpc import ClusterRpcProxy, RpcProxy, ServiceContainer, rpc
from aiorpc.config import Settings, resolve
from aiorpc.console import ConsoleServer
from aiorpc.console.shapes import DescribedServices
from aiorpc.http.listener import Listener
from aiorpc.transports import open_transport
from tests.support.chromium import chromium
from tests.support.parked import Yard
from tests.support.waiting import eventually

playwright_api = pytest.importorskip(
    "playwright.async_api", reason="the package playwright is in the dependency group `test`"
)
Browser, Page, expect = playwright_api.Browser, playwright_api.Page, playwright_api.expect
expect.set_options(timeout=20_000)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.long]

#: A text that would run if it became HTML.
HOSTILE = "<img src=x onerror='window.ran = true'><script>window.ran = true</script>"


class Shop:
    __doc__ = f"Sells books. {HOSTILE}"
    name = "shop"
    version = f"1.0 {HOSTILE}"
    stock = RpcProxy("stock")
    called: list[Any]

    @rpc
    async def quote(self, title: str, copies: int = 1) -> dict[str, Any]:
        self.called.append((title, copies))
        await self.stock.count(title)
        return {"title": title, "price": 9.9 * copies}

    quote.__doc__ = f"Return a price. {HOSTILE}"

    @rpc
    async def fail(self) -> None:
        raise ValueError(HOSTILE)


class Stock:
    name = "stock"

    @rpc
    async def count(self, title: str) -> int:
        return 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium())
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def settings() -> Settings:
    return resolve({"AMQP_URI": f"memory://{uuid.uuid4().hex}", "MAX_MESSAGE_SIZE": None})


@pytest_asyncio.fixture(loop_scope="module")
async def services(settings: Settings) -> AsyncIterator[AsyncExitStack]:
    """The shop, which was called once; the test may stop it."""
    Shop.called = []
    async with ServiceContainer(Stock, settings), AsyncExitStack() as shop:
        await shop.enter_async_context(ServiceContainer(Shop, settings))
        async with ClusterRpcProxy(settings) as cluster:
            await cluster.shop.quote("Emma")
        del Shop.called[:]
        yield shop


@asynccontextmanager
async def served(settings: Settings, *, changes: bool = True) -> AsyncIterator[tuple[str, str]]:
    """Serve the console; yield its URL and what follows it to use the token."""
    console = ConsoleServer(settings, "127.0.0.1:0", allow_changes=changes, interval=0.2, wait=0.05)
    async with console.open() as url:
        yield url, f"/#token={console.token}"


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page in which nothing fails: no script, no request, and nothing against the policy."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(20_000)
    page = await context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    page.troubles = troubles
    yield page
    assert troubles == []
    await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def opened(page: Page, settings: Settings, services: AsyncExitStack) -> AsyncIterator[Page]:
    """The page of a console that may change things, with its token."""
    async with served(settings) as (url, token):
        await page.goto(url + token)
        await expect(page.get_by_role("link", name="quote", exact=True)).to_be_visible()
        yield page
        await page.goto("about:blank")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sheet(browser: Browser) -> AsyncIterator[Page]:
    """A page to run the page's modules in, for tests of functions."""
    async with served(resolve({"AMQP_URI": "memory://sheet"}), changes=False) as (url, _):
        page = await browser.new_page()
        await page.goto(url)
        yield page
        await page.close()


async def tab_to(page: Page, name: str, most: int = 40) -> None:
    """Press Tab until the element with this name has the focus."""
    for _ in range(most):
        await page.keyboard.press("Tab")
        focused = await page.evaluate(
            "() => { const at = document.activeElement; return at.getAttribute('aria-label') ?? "
            "document.querySelector(`label[for='${at.id}']`)?.textContent ?? at.textContent }"
        )
        if focused.strip().startswith(name):
            return
    raise AssertionError(f"{most} presses of Tab do not reach {name!r}")


async def go(page: Page, route: str) -> None:
    await page.evaluate("route => { location.hash = route }", route)


# --- what it shows


async def test_services_and_their_figures_are_shown_as_they_change(opened: Page) -> None:
    row = opened.get_by_role("row").filter(has=opened.get_by_role("link", name="quote", exact=True))
    await expect(row.get_by_role("cell").nth(1)).to_have_text(re.compile(r"\d+\.\d"))
    await expect(opened.locator(".tile").nth(0)).to_contain_text("2")
    assert "token" not in opened.url
    await go(opened, "#/services/shop")
    await expect(opened.get_by_role("heading", name="shop")).to_be_visible()
    await expect(opened.get_by_role("region", name="Instances").get_by_role("row")).to_have_count(2)
    await go(opened, "#/services/shop/quote")
    callers = opened.get_by_role("region", name="Callers")
    await expect(callers).to_contain_text("standalone_rpc_proxy.call")


async def test_a_text_of_a_service_never_becomes_html(opened: Page) -> None:
    for route in ("#/services", "#/services/shop", "#/services/shop/quote"):
        await go(opened, route)
        await expect(opened.locator("main")).to_contain_text("<img src=x")
    await go(opened, "#/services/shop/fail")
    await opened.get_by_role("button", name="Call").click()
    await expect(opened.locator(".result .failure")).to_contain_text(f"ValueError: {HOSTILE}")
    for route in (f"#/services/{HOSTILE}", f"#/parked/{HOSTILE}", f"#/{HOSTILE}"):
        await go(opened, route)
    assert await opened.evaluate("() => window.ran") is None
    assert (
        await opened.evaluate("() => document.querySelectorAll('main img, main script').length")
        == 0
    )
    # The refused look of the wrong queue name is no fault of the page.
    opened.troubles[:] = [each for each in opened.troubles if "409" not in each]


async def test_the_row_of_a_service_has_the_durations_of_its_calls(
    opened: Page, settings: Settings
) -> None:
    async def call() -> None:
        async with ClusterRpcProxy(settings) as cluster:
            while True:
                await cluster.shop.quote("Emma")
                await asyncio.sleep(0.01)  # load, not a wait

    calling = asyncio.create_task(call())
    link = opened.get_by_role("link", name="shop", exact=True)
    row = opened.locator("tr.service").filter(has=link)
    heads = await opened.get_by_role("columnheader").all_inner_texts()
    try:
        for head in ("p50", "p99"):
            (at,) = [at for at, text in enumerate(heads) if text.startswith(head)]
            await expect(row.locator("td").nth(at - 1)).to_have_text(re.compile(r"^\d+\.\d$"))
    finally:
        calling.cancel()


async def test_a_contract_that_did_not_come_is_asked_for_again(opened: Page) -> None:
    answers = [{"status": 503, "json": {"error": "the broker is away"}}] * 2

    async def answer(route: Any) -> None:
        await (route.fulfill(**answers.pop()) if answers else route.continue_())

    await opened.route("**/api/contract?*", answer)
    await go(opened, "#/services/shop/quote")
    await expect(opened.locator("main")).to_contain_text("No description: the broker is away")
    await expect(opened.get_by_role("region", name="Arguments")).to_contain_text("copies")
    assert answers == []
    opened.troubles[:] = [each for each in opened.troubles if "503" not in each]


async def test_a_method_that_an_instance_leaves_out_is_tried(
    page: Page, settings: Settings, services: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer has no place for very many methods."""

    def nothing(infos: Any) -> DescribedServices:
        return DescribedServices(services=[])

    monkeypatch.setattr("aiorpc.console.live.described", nothing)
    async with served(settings) as (url, token):
        await page.goto(url + token)
        await go(page, "#/services/shop/quote")
        await page.get_by_label("title").fill("Emma")
        await page.get_by_role("button", name="Call").click()
        await expect(page.get_by_label("Result")).to_contain_text("9.9")
        await page.goto("about:blank")


async def test_a_service_that_went_away_stays_on_the_page(
    opened: Page, services: AsyncExitStack
) -> None:
    await services.aclose()
    gone = opened.locator("tbody.gone")
    await expect(gone).to_contain_text("no answer since")
    await go(opened, "#/services/shop/quote")
    await expect(opened.locator("main")).to_contain_text("No answer since")
    await expect(opened.get_by_role("region", name="Try it")).to_contain_text("No instance answers")


async def test_a_method_that_nobody_has_is_told(opened: Page) -> None:
    await go(opened, "#/services/shop/sell")
    main = opened.locator("main")
    await expect(main).to_contain_text("No service that answers has this method")
    await expect(main).to_contain_text("No description: no service that answers has this method")
    await expect(opened.get_by_role("region", name="Try it")).to_contain_text("has this method")
    await expect(main.locator("p.failure")).to_be_hidden()


async def test_a_console_that_stopped_is_told(page: Page, settings: Settings) -> None:
    async with served(settings) as (url, token):
        await page.goto(url + token)
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(page.locator(".empty")).to_contain_text("No service answers")
    await expect(page.locator("#live")).to_have_text("Lost")
    await expect(page.get_by_role("alert")).to_contain_text("The figures are old")
    page.troubles.clear()  # the browser tells that nobody answers


async def test_the_calls_are_a_picture_and_a_table(opened: Page) -> None:
    await opened.get_by_role("link", name="Calls").click()
    picture = opened.get_by_role("group", name="Call graph")
    await expect(picture.get_by_role("link")).to_have_count(2)
    await expect(picture.locator("path.edge")).to_have_count(2)
    table = opened.get_by_role("region", name="Calls", exact=True)
    await expect(table.get_by_role("row")).to_have_count(3)
    await expect(table).to_contain_text("shop.quote")
    await tab_to(opened, "stock")
    await opened.keyboard.press("Enter")
    await expect(opened.get_by_role("heading", name="stock")).to_be_visible()


class Large:
    """Has many methods, with long names."""

    name = f"a_service_with_a_very_long_name_{'x' * 60}"


for _number in range(200):

    async def _method(self: Large) -> None:
        """Do something that takes many words to explain, more words than fit in one line."""

    _method.__name__ = _method.__qualname__ = f"method_{_number:03}_{'of_many_words_' * 4}"
    setattr(Large, _method.__name__, rpc(_method))


async def test_many_methods_and_long_names_fit(page: Page, settings: Settings) -> None:
    async with ServiceContainer(Large, settings), served(settings, changes=False) as (url, _):
        await page.goto(url)
        unfold = page.get_by_role("button", name=f"Methods of {Large.name}")
        await expect(unfold).to_have_attribute("aria-expanded", "false")
        await page.get_by_role("searchbox").fill("method_17 rpc")
        await expect(page.locator("tr.method")).to_have_count(10)
        await page.get_by_role("searchbox").fill("")
        await unfold.click()
        await expect(page.locator("tr.method")).to_have_count(200)
        for width in (400, 1280):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("() => document.documentElement.scrollWidth") <= width
        await page.goto("about:blank")


# --- trying a method


async def test_a_method_is_tried_by_keyboard_only(opened: Page) -> None:
    await opened.keyboard.press("Tab")
    await opened.keyboard.press("Enter")  # skip to the content
    await tab_to(opened, "quote")
    await opened.keyboard.press("Enter")
    await expect(opened.get_by_role("heading", name="shop.quote")).to_be_visible()
    await expect(opened.get_by_role("button", name="Call")).to_be_visible()
    assert await opened.evaluate("() => document.activeElement.id") == "main"
    await tab_to(opened, "title")
    await opened.keyboard.type("Emma")
    await tab_to(opened, "copies")
    await opened.keyboard.type("2")
    await tab_to(opened, "Call")
    await opened.keyboard.press("Enter")
    await expect(opened.get_by_label("Result")).to_contain_text('"price": 19.8')
    assert Shop.called == [("Emma", 2)]


async def test_each_kind_of_argument_goes_to_its_place(page: Page, settings: Settings) -> None:
    async with ServiceContainer(Places, settings), served(settings) as (url, token):
        await page.goto(f"{url}{token}")
        await go(page, "#/services/places/take")
        fill = {"one": "1", "two": "2", "rest": "[3, 4]", "more": '{"five": 5}'}
        for name, text in fill.items():
            await page.get_by_label(name, exact=False).first.fill(text)
        await page.get_by_role("button", name="Call").click()
        result = page.get_by_label("Result")
        await expect(result).to_contain_text("five")
        assert json.loads(await result.inner_text()) == [1, 2, [3, 4], {"five": 5}]
        await page.get_by_label("Edit as JSON").check()
        await page.get_by_label("Arguments by name").fill('{"one": "x", "two": 2}')
        await page.get_by_role("button", name="Call").click()
        await expect(page.locator(".result .failure")).to_contain_text("BadArguments: places.take")
        await page.goto("about:blank")


class Places:
    name = "places"

    @rpc
    async def take(self, one: int, /, two: int, *rest: int, **more: int) -> list[Any]:
        """Return the arguments."""
        return [one, two, rest, more]


async def test_a_console_that_shows_only_has_no_form(
    page: Page, settings: Settings, services: AsyncExitStack
) -> None:
    async with served(settings, changes=False) as (url, _):
        await page.goto(f"{url}/#/services/shop/quote")
        tried = page.get_by_role("region", name="Try it")
        await expect(tried).to_contain_text("--allow-changes")
        await expect(tried.get_by_role("button")).to_have_count(0)
        await expect(page.locator("#mode")).to_have_text("read-only")
        await page.goto("about:blank")


async def test_the_token_is_asked_for(
    page: Page, settings: Settings, services: AsyncExitStack
) -> None:
    async with served(settings) as (url, token):
        await page.goto(f"{url}/#/services/shop/quote")
        await page.get_by_label("Token").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert").last).to_contain_text("is wrong")
        await page.get_by_label("Token").fill(token.partition("=")[2])
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Call")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("button", name="Call")).to_be_visible()
        await page.goto("about:blank")
    page.troubles[:] = [each for each in page.troubles if "401" not in each]


PROPERTIES: dict[str, Any] = {
    "title": {"type": "string"},
    "copies": {"type": "integer", "minimum": 1, "default": 1},
    "currency": {"enum": ["EUR", "USD"], "default": "EUR"},
    "gift": {"type": "boolean", "default": False},
    "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    "card": {"type": "string"},
    "address": {"$ref": "#/components/schemas/Address"},
    "lines": {"type": "array", "items": {"type": "string"}},
    "price": {"type": "number"},
}
REQUIRED = {"title", "card", "address", "lines"}
PARTS = [
    {"name": name, "schema": schema, "required": name in REQUIRED}
    for name, schema in PROPERTIES.items()
]
#: As contracts write them: a default beside a reference, and a tuple.
TYPES = {
    "address": {"allOf": [{"$ref": "#/components/schemas/Address"}], "default": {"city": "Bath"}},
    "colour": {"allOf": [{"$ref": "#/components/schemas/Colour"}], "default": "red"},
    "pair": {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]},
    "pin": {"type": "string", "x-aiorpc-hidden-default": True},
}
ADDRESS = {
    "type": "object",
    "title": "Address",
    "properties": {"city": {"type": "string"}, "zip": {"type": "string"}},
    "required": ["city"],
}
COLOUR = {"enum": ["red", "blue"]}
ROOT = {"components": {"schemas": {"Address": ADDRESS, "Colour": COLOUR}}}
#: Makes a form of the parts, fills it by label, and returns its value or its error.
FILL = """async ([parts, root, filled]) => {
    const { fieldsOf } = await import("/form.js");
    const fields = fieldsOf(parts, root, { isSecret: (path) => path === "card" });
    document.getElementById("main").replaceChildren(fields.element);
    for (const [path, text] of Object.entries(filled)) {
        const input = document.querySelector(`[data-path="${path}"]`);
        if (input.tagName === "SELECT") {
            input.value = [...input.options].find((each) => each.textContent === text).value;
        } else input.value = text;
    }
    try {
        return { value: fields.value(), card: document.querySelector("[data-path=card]").type };
    } catch (error) {
        return { error: error.message, field: error.field.dataset.path };
    }
}"""
WHOLE = {"title": "Emma", "card": "4111", "address.city": "Bath", "lines": '["a"]'}


@pytest.mark.parametrize(
    ("filled", "value"),
    [
        ({}, {}),
        ({"copies": "3"}, {"copies": 3}),
        ({"currency": "USD", "gift": "false"}, {"currency": "USD", "gift": False}),
        ({"note": "x", "price": "9.5"}, {"note": "x", "price": 9.5}),
        ({"address.zip": "BA1"}, {"address": {"city": "Bath", "zip": "BA1"}}),
    ],
)
async def test_a_form_from_a_schema_gives_its_value(
    sheet: Page, filled: dict[str, str], value: dict[str, Any]
) -> None:
    made = await sheet.evaluate(FILL, [PARTS, ROOT, {**WHOLE, **filled}])
    expected = {"title": "Emma", "card": "4111", "address": {"city": "Bath"}, "lines": ["a"]}
    assert made == {"value": {**expected, **value}, "card": "password"}


async def test_a_type_with_a_default_or_of_a_tuple_is_shown(sheet: Page) -> None:
    script = """async ([types, root]) => {
        const { typeOf, defaultOf, sampleOf } = await import("/form.js");
        return Object.entries(types).map(([name, each]) =>
            [name, typeOf(each, root), defaultOf(each), sampleOf(each, root)]);
    }"""
    assert await sheet.evaluate(script, [TYPES, ROOT]) == [
        ["address", "Address", '{"city":"Bath"}', {"city": "Bath"}],
        ["colour", '"red" | "blue"', '"red"', "red"],
        ["pair", "[integer, string]", None, [0, "…"]],
        ["pin", "string", "hidden", "…"],
    ]


@pytest.mark.parametrize(
    ("filled", "field", "error"),
    [
        ({"copies": "three"}, "copies", "must be an integer"),
        ({"copies": "1.5"}, "copies", "must be an integer"),
        ({"copies": "9007199254740993"}, "copies", "too large"),
        ({"price": "x"}, "price", "must be a number"),
        ({"lines": "[1"}, "lines", "is not JSON"),
        ({"lines": ""}, "lines", "is required"),
    ],
)
async def test_a_wrong_field_is_named(
    sheet: Page, filled: dict[str, str], field: str, error: str
) -> None:
    made = await sheet.evaluate(FILL, [PARTS, ROOT, {**WHOLE, **filled}])
    assert made["field"] == field
    assert error in made["error"]


# --- parked messages


async def test_parked_messages_are_replayed_by_keyboard_only(
    opened: Page, settings: Settings
) -> None:
    async with open_transport(settings) as transport:
        yard = Yard(transport)
        await yard.declare()
        await yard.park(b'{"n": 1}', HOSTILE.encode())
        await go(opened, f"#/parked/{yard.parked}")
        await expect(opened.get_by_role("heading", name="Messages")).to_be_visible()
        await tab_to(opened, "Select message 1")
        await opened.keyboard.press("Space")
        await opened.keyboard.press("Shift+Tab")
        await opened.keyboard.press("Shift+Tab")
        await opened.keyboard.press("Shift+Tab")
        await opened.keyboard.press("Enter")
        dialog = opened.get_by_role("dialog")
        await expect(dialog).to_contain_text("Replay 1 message?")
        await opened.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        assert await yard.bodies(yard.source) == []
        await opened.get_by_role("button", name="Replay the selected").focus()
        await opened.keyboard.press("Enter")
        await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        await opened.keyboard.press("Shift+Tab")
        await opened.keyboard.press("Enter")
        await expect(opened.locator(".report")).to_contain_text("1 of 1 message replayed")
        assert await yard.bodies(yard.source) == [b'{"n": 1}']
        await opened.get_by_role("region", name="Messages").get_by_role("link").click()
        await expect(opened.get_by_label("Body")).to_contain_text("<img src=x")
        assert await opened.evaluate("() => window.ran") is None


async def test_a_link_of_another_site_reads_no_parked_message(
    page: Page, settings: Settings
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    async with open_transport(settings) as transport, served(settings) as (url, _):
        yard = Yard(transport)
        await yard.declare()
        await yard.park(b'{"n": 1}')
        await page.goto(f"{url}/#/parked/{yard.parked}")
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(page.locator("main")).to_contain_text("A link opened this view")
        assert await page.evaluate("() => document.activeElement === document.body")
        assert not [each for each in asked if "/api/parked" in each]
        await tab_to(page, "Read the messages")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Messages")).to_be_visible()
        await expect(page.get_by_role("button", name="Look again")).to_be_enabled()
        assert [each for each in asked if "/api/parked/messages" in each]
        await page.goto("about:blank")


# --- for everybody


@pytest.mark.parametrize("width", [1280, 400])
async def test_each_view_fits_and_all_that_one_can_use_has_a_name(
    opened: Page, settings: Settings, width: int
) -> None:
    await opened.set_viewport_size({"width": width, "height": 800})
    async with open_transport(settings) as transport:
        yard = Yard(transport)
        await yard.declare()
        await yard.park(b'{"n": 1}')
        views = {
            "#/services": "quote",
            "#/services/shop": "Running since",
            "#/services/shop/quote": "Called by",
            "#/calls": "All calls",
            "#/parked": "No message is parked",
            f"#/parked/{yard.parked}": "Replay all",
        }
        for route, text in views.items():
            await go(opened, route)
            await expect(opened.locator("main")).to_contain_text(text)
            wide = await opened.evaluate("() => document.documentElement.scrollWidth")
            assert wide <= width, route
            assert await opened.evaluate(NAMELESS) == [], route


#: What a screen reader could not name, and headings that leave out a level.
NAMELESS = """() => {
    const found = [];
    const used = "a, button, input, select, textarea, [role=region]";
    for (const each of document.querySelectorAll(used)) {
        if (each.closest("[hidden]")) continue;
        const label = each.id && document.querySelector(`label[for="${each.id}"]`);
        const name = each.getAttribute("aria-label") || label?.textContent || each.textContent;
        if (!name.trim()) found.push(each.outerHTML);
    }
    for (const each of document.querySelectorAll("img:not([alt])")) found.push(each.outerHTML);
    for (const each of document.querySelectorAll("table:not(:has(caption))")) found.push("table");
    let level = 0;
    for (const each of document.querySelectorAll("main h1, main h2, main h3")) {
        const own = Number(each.tagName[1]);
        if (own > level + 1) found.push(each.outerHTML);
        level = own;
    }
    return found;
}"""


async def test_the_theme_is_the_users_choice(opened: Page) -> None:
    def ground() -> Any:
        return opened.evaluate("() => getComputedStyle(document.body).backgroundColor")

    await opened.emulate_media(color_scheme="dark")
    dark = await ground()
    await opened.emulate_media(color_scheme="light")
    light = await ground()
    assert dark != light
    switch = opened.get_by_role("button", name="Theme")
    await switch.click()
    await switch.click()
    assert await ground() == dark
    await opened.reload()
    assert await ground() == dark
    await expect(switch).to_have_text("Dark")


#: Graphs by their edges: a circle, a service that calls itself, a long edge, two parts, many.
GRAPHS = [
    ["ab", "bc", "ca"],
    ["aa"],
    ["ab", "bc", "cd", "ad"],
    ["ab", "cd"],
    [a + b for a in "abcdefgh" for b in "abcdefgh" if a < b],
    ["ab", "ba", "bc", "cb", "ca", "ac"],
]


@pytest.mark.parametrize("graph", GRAPHS, ids=len)
@pytest.mark.parametrize("down", [False, True])
async def test_the_boxes_of_the_graph_do_not_overlap(
    sheet: Page, graph: list[str], *, down: bool
) -> None:
    place = """async ([names, links, down]) => {
        const { placed, BOX } = await import("/layout.js");
        const { boxes, curves, loops, width, height } = placed(names, links, down);
        const own = boxes.map(({ name, x, y }) => ({ name, x, y }));
        return { own, box: BOX, edges: curves.length + loops.length, width, height };
    }"""
    names = sorted({name for edge in graph for name in edge})
    links = [{"from": edge[0], "to": edge[1]} for edge in graph]
    made = await sheet.evaluate(place, [names, links, down])
    assert made["edges"] == len(graph)
    wide, high = made["box"]["width"], made["box"]["height"]
    boxes = made["own"]
    for at, one in enumerate(boxes):
        assert -0.1 <= one["x"] <= made["width"] - wide + 0.1
        assert -0.1 <= one["y"] <= made["height"] - high + 0.1
        for other in boxes[at + 1 :]:
            apart = abs(one["x"] - other["x"]) >= wide or abs(one["y"] - other["y"]) >= high
            assert apart, (one, other)


# --- other pages


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    """Serve *app*, and yield its URL."""
    listener = await Listener.open(app, "127.0.0.1:0", key="tests", max_headers=16384)
    try:
        yield listener.url
    finally:
        await listener.aclose(1)


#: What a hostile page tries: requests without and with permission, a form, a frame.
ATTACK = """async ([url, token]) => {
    const wish = JSON.stringify({ service: "shop", method: "quote", args: ["stolen"] });
    const outcome = {};
    const tried = async (name, path, options) => {
        try {
            outcome[name] = (await fetch(url + path, options)).type;
        } catch {
            outcome[name] = "refused";
        }
    };
    await tried("read", "/api/parked");
    await tried("post", "/api/call", { method: "POST", body: wish, mode: "no-cors" });
    const headers = { "content-type": "application/json", "aiorpc-console-token": token };
    await tried("json", "/api/call", { method: "POST", body: wish, headers });
    const frame = document.createElement("iframe");
    const loaded = () => new Promise((done) => {
        frame.onload = done;
        setTimeout(done, 1000);
    });
    frame.name = "target";
    frame.src = url + "/";
    document.body.append(frame);
    await loaded();
    const form = document.createElement("form");
    const action = { action: url + "/api/call", method: "POST", enctype: "text/plain" };
    Object.assign(form, { ...action, target: "target" });
    const input = document.createElement("input");
    Object.assign(input, { name: wish, value: "" });
    form.append(input);
    document.body.append(form);
    form.submit();
    await loaded();
    return outcome;
}"""


async def test_another_page_can_read_and_change_nothing(
    browser: Browser, settings: Settings, services: AsyncExitStack
) -> None:
    site = HTMLResponse("<!doctype html><title>hostile</title>")
    async with (
        served(settings) as (url, token),
        listening(site) as hostile,
        await browser.new_context() as context,
    ):
        page = await context.new_page()
        await page.goto(hostile)
        # Even with the token, which it cannot know.
        outcome = await page.evaluate(ATTACK, [url, token.partition("=")[2]])
        assert outcome == {"read": "refused", "post": "refused", "json": "refused"}
        frames = [each for each in page.frames if each is not page.main_frame]
        assert [await each.locator("#theme").count() for each in frames] == [0]
    assert Shop.called == []


async def test_a_hidden_page_lets_the_console_rest(
    browser: Browser, settings: Settings, services: AsyncExitStack
) -> None:
    console = ConsoleServer(settings, "127.0.0.1:0", interval=0.2, wait=0.05)
    async with (
        console.application() as app,
        listening(app) as url,
        await browser.new_context() as context,
    ):
        page = await context.new_page()
        await page.goto(url)
        await expect(page.locator("#live")).to_have_text("Live")
        assert app.live.is_looking
        await page.evaluate(
            "() => { Object.defineProperty(document, 'hidden', { value: true });"
            " document.dispatchEvent(new Event('visibilitychange')) }"
        )
        await expect(page.locator("#live")).to_have_text("Paused")
        await eventually(lambda: not app.live.is_looking)

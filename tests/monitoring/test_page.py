"""The live page in a real browser, before a real worker with real traffic; screenshots in build/screenshots/."""

import asyncio
import itertools
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from registry.alert_rules import AlertRules
from registry.heartbeats import Heartbeats
from registry.postgres import Database
from registry.worker_heartbeat import WorkerHeartbeat
from schemas.alert_rules import ModelRules
from schemas.events import JsonObject
from streams.clients.predict_client import PredictClient
from streams.config.settings import Settings
from tests.monitoring.browser import find
from tests.support.models.served_model import LARGEST_OUTPUT, apply, serve_model, spec_of
from tests.support.promotions.events import event, spec
from tests.support.stack.services import MakeTopics
from tests.support.worker.live_page import PageProcess, live_page, until
from tests.support.worker.process import StartWorker

TOKEN = "a-token-of-this-test"
WIDE, NARROW = (1280, 900), (390, 844)
WAIT_MS = 30_000
SCREENSHOTS = Path("build/screenshots")
AUDIT = (Path(__file__).parent / "audit.js").read_text(encoding="utf-8")
# Reasons in the audit trail are untrusted input.
HOSTILE = '<img src=x onerror="document.title=1">'

_CLOCK = re.compile(r"^\d\d:\d\d:\d\d$")
_ZONED = re.compile(r"^\d\d:\d\d:\d\d \S+$")
_COUNTED = re.compile(r"^\(\d+\) Headrace$")

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("browser")]

expect.set_options(timeout=WAIT_MS)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Headless Chromium; raises SetupError when it was not fetched."""
    chromium = find()
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=chromium.executable, env={**os.environ, **chromium.variables}
        )
        yield launched
        await launched.close()


@dataclass
class Opened:
    """A page with its console errors and failed requests."""

    page: Page
    complaints: list[str]

    async def shot(self, name: str) -> None:
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    async def audited(self) -> Sequence[str]:
        found: list[str] = await self.page.evaluate(AUDIT)
        return found


@asynccontextmanager
async def opened(
    browser: Browser, url: str, size: tuple[int, int] = WIDE, scheme: str = "light"
) -> AsyncIterator[Opened]:
    """The page in a browser context of its own."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"{request.url}: {request.failure}"))
    await page.goto(url)
    yield Opened(page, complaints)
    await context.close()


@dataclass
class System:
    """A worker with all roles that serves a model with a canary, and a page beside it."""

    settings: Settings
    model: str
    page: PageProcess
    client: PredictClient
    bad: bool = False
    """Whether half of the requests violate the output schema."""

    async def ask(self) -> None:
        """Send requests without end, by many users, with repeated inputs."""
        for number in itertools.count():
            x = LARGEST_OUTPUT // 3 + 1 + number % 1000 if self.bad and number % 2 else number % 40
            await self.client.predict(self.model, user_id=f"u{number % 100}", input={"x": x})


@pytest.fixture
async def system(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> AsyncIterator[System]:
    model = await serve_model(database, tmp_path, canary_percent=25)
    settings = await topics(
        2,
        postgres_dsn=database,
        artifact_dir=str(tmp_path / "artifacts"),
        dashboard_token=TOKEN,
        worker_name="worker-of-this-test",
    )
    worker = start_worker(settings, "predict,control,monitor")
    await worker.ready()
    async with AsyncExitStack() as running:
        client = await running.enter_async_context(PredictClient(settings))
        page = await running.enter_async_context(live_page(settings))
        served = System(settings, model, page, client)
        asking = asyncio.create_task(served.ask())
        await until(page.url, _both_are_counted)
        yield served
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def _both_are_counted(state: JsonObject) -> bool:
    (model,) = state["models"]
    return sum(any(version["lines"]["p99_ms"]) for version in model["versions"]) == 2


async def test_it_shows_what_is_served_and_promotes(browser: Browser, system: System) -> None:
    """Both versions with their lines; a promotion from the page, by keyboard, appears on it."""
    async with opened(browser, system.page.url) as shown:
        page = shown.page
        rows = page.locator(".versions tbody tr")
        await expect(rows).to_have_count(2)
        await expect(page.get_by_role("img", name="Traffic: v1 75%, v2 25%")).to_be_visible()
        await expect(page.get_by_role("row", name="v1 production 75%")).to_be_visible()
        for chart in ("Requests", "p50", "p99", "Cache hits", "Errors"):
            drawn = page.get_by_role("img", name=f"{chart}: now, v1").locator(".lines path")
            await expect(drawn).to_have_count(2)
        assert float(await rows.nth(0).locator("td").nth(1).inner_text()) > 0
        await expect(page.locator("#workers")).to_contain_text("worker-of-this-test")
        await expect(page.locator(".changes li").first).to_contain_text("v1 100 → 75%, v2 0 → 25%")

        slider = page.get_by_role("slider", name="Time")
        await slider.focus()
        await page.keyboard.press("ArrowLeft")
        await expect(page.locator("output")).to_have_text(_CLOCK)
        assert "p99" in (await slider.get_attribute("aria-valuetext") or "")
        await page.keyboard.press("End")
        await expect(page.locator("output")).to_have_text("now")
        box = await page.locator(".chart svg").first.bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 60)
        await expect(page.locator(".readout").first.locator(".value")).to_have_count(2)
        await page.mouse.move(0, 0)
        await expect(page.locator("output")).to_have_text("now")
        await page.get_by_text("Figures of the last 15 minutes as tables").click()
        await expect(page.locator(".figures table")).to_have_count(2)
        await expect(page.locator(".figures tbody tr")).to_have_count(30)
        await page.get_by_text("Figures of the last 15 minutes as tables").click()

        await page.get_by_role("button", name="Promote v2").press("Enter")
        dialog = page.get_by_role("dialog", name=f"Promote v2 of {system.model}")
        await expect(dialog).to_contain_text("v2 gets 100% of the users. v1 is archived")
        await shown.shot("dialog-1280-light")
        assert await shown.audited() == []
        for label, text in (("Your name", "ann"), ("Reason", HOSTILE), ("Token", "not-the-token")):
            await dialog.get_by_label(label).fill(text)
        await page.keyboard.press("Enter")
        await expect(dialog.get_by_role("alert")).to_have_text("The token is wrong.")
        # The browser logs the response 401 itself.
        assert [each for each in shown.complaints if "401" not in each] == []
        shown.complaints.clear()
        await dialog.get_by_label("Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(dialog).to_be_hidden()
        await expect(page.locator(".outcome")).to_contain_text("revision 5, v2 100%")
        await expect(page.get_by_role("img", name="Traffic: v2 100%")).to_be_visible()
        newest = page.locator(".changes li").first
        await expect(newest).to_contain_text("by ann")
        await expect(newest).to_contain_text(f"v1 75 → 0%, v2 25 → 100% {HOSTILE}")
        assert await page.locator("main img").count() == 0
        await expect(page.locator(".marks text").last).to_be_visible()
        assert await page.evaluate("Object.keys(sessionStorage).sort()") == [
            "headrace-actor",
            "headrace-token",
        ]

        await page.get_by_role("button", name="Roll back").click()
        dialog = page.get_by_role("dialog", name="Roll back")
        await expect(dialog).to_contain_text("v1 gets 100% of the users again.")
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        assert shown.complaints == []


async def test_an_alert_is_shown_when_it_fires(browser: Browser, system: System) -> None:
    """An alert of the monitor, caused by failing requests, is announced, described, and counted in the title."""
    database = await Database.connect(system.settings.postgres_dsn.get_secret_value())
    quick = ModelRules.model_validate({"error_rate": {"min_requests": 20, "hold_seconds": 0}})
    await AlertRules(database).set(system.model, quick, actor="op", reason="")
    await database.close()
    async with opened(browser, system.page.url) as shown:
        await expect(shown.page.locator("#alerts-none")).to_have_text("Nothing fires.")
        system.bad = True
        alert = shown.page.locator("[aria-live=polite] #alerts li").first
        await expect(alert).to_contain_text("critical error_rate since")
        await expect(alert).to_contain_text("of the requests of the last 30 s failed")
        await expect(shown.page).to_have_title(_COUNTED)
        await expect(shown.page.locator(".codes")).to_contain_text("INVALID_OUTPUT")
        await expect(shown.page.locator(".failing").first).to_be_visible()
        assert await shown.audited() == []
        await shown.shot("alert-1280-light")
        assert shown.complaints == []


async def test_what_workers_answer_by_is_shown_with_the_reasons(
    browser: Browser, system: System, tmp_path: Path
) -> None:
    """A broken version has all traffic in the registry; a worker that died is faded."""
    dsn = system.settings.postgres_dsn.get_secret_value()
    broken = spec_of(tmp_path, "v1") | {"version": "broken", "artifact_sha256": "0" * 64}
    await apply(
        dsn,
        event("register", system.model, model=broken),
        event("promote", system.model, version="broken"),
    )
    database = await Database.connect(dsn)
    await Heartbeats(database).record(WorkerHeartbeat("died", "b", 1, {system.model: "an old reason"}))
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE worker_heartbeats SET sent_at = now() - interval '2 minutes' WHERE worker = 'died'"
        )
    await database.close()
    for size, scheme in ((WIDE, "light"), (NARROW, "dark")):
        async with opened(browser, system.page.url, size, scheme) as shown:
            page = shown.page
            await expect(page.get_by_role("img", name="Traffic: v1 75%, v2 25%")).to_be_visible()
            await expect(page.get_by_role("row", name="broken production 100%")).to_be_visible()
            for place in (".instead", "#reasons"):
                told = page.locator(place)
                await expect(told).to_contain_text("broken cannot be loaded: ")
                await expect(told).to_contain_text("has SHA-256")
                await expect(told).to_contain_text("00000000…")
                # The worker may have read the registry between the two events.
                await expect(told).to_contain_text(re.compile("revision [45] is served instead"))
                await expect(told).to_contain_text("worker-of-this-test")
            await expect(page.locator("#workers .faded")).to_contain_text("died")
            await expect(page.locator("body")).not_to_contain_text("an old reason")
            await expect(page.locator("#updated")).to_have_text(_ZONED)
            # The lines of two versions that are equal are both to be seen.
            for number, dashes in enumerate(("none", "7px, 6px")):
                line = page.locator(".lines path").nth(number)
                await expect(line).to_have_css("stroke-dasharray", dashes)
            assert await shown.audited() == []
            await shown.shot(f"behind-{size[0]}-{scheme}")
            assert shown.complaints == []


async def test_a_server_that_is_gone_is_told_and_comes_back(browser: Browser, system: System) -> None:
    """A server that hangs too. The page turns grey meanwhile, and recovers without a reload."""
    port = system.page.port
    async with opened(browser, system.page.url) as shown:
        page = shown.page
        connection = page.locator("#connection")
        await expect(connection).to_have_text("Live")
        system.page.pause()
        await expect(connection).to_contain_text("Disconnected; reconnecting. Showing")
        system.page.resume()
        await expect(connection).to_have_text("Live")

        await system.page.killed()
        await expect(connection).to_contain_text("Disconnected; reconnecting. Showing")
        assert await page.locator("main").evaluate("node => getComputedStyle(node).filter") == "grayscale(1)"
        assert await shown.audited() == []
        await shown.shot("disconnected-1280-light")
        await page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
        assert await shown.audited() == []
        await shown.shot("disconnected-390-light")
        async with live_page(system.settings, port=port):
            await expect(connection).to_have_text("Live")
            assert await page.locator("main").evaluate("node => getComputedStyle(node).filter") == "none"
        assert [each for each in shown.complaints if "net::ERR_" not in each] == []


async def test_it_can_be_read_at_any_width_and_light(browser: Browser, system: System) -> None:
    """Contrast, labels, headings and no horizontal scrolling, with names of the maximum length."""
    dsn = system.settings.postgres_dsn.get_secret_value()
    long_name, long_version = "m" + "x" * 62, "v" + "9" * 63
    await apply(
        dsn,
        event("register", long_name, model=spec(long_version), reason="why " * 40, actor="a" * 100),
        event("promote", long_name, version=long_version),
        event("register", long_name, model=spec("v2")),
        event("canary", long_name, version="v2", weight=1),
    )
    for size in (WIDE, (800, 900), NARROW):
        for scheme in ("light", "dark"):
            async with opened(browser, system.page.url, size, scheme) as shown:
                await expect(shown.page.locator(".model")).to_have_count(2)
                await expect(shown.page.locator(".lines path").first).to_be_visible()
                assert (size, scheme, await shown.audited()) == (size, scheme, [])
                if size != (800, 900):
                    await shown.shot(f"page-{size[0]}-{scheme}")
                assert shown.complaints == []
    async with opened(browser, f"{system.page.url}?model={system.model}", NARROW) as shown:
        await expect(shown.page.locator(".model")).to_have_count(1)
        await expect(shown.page.get_by_label("1 of 2 models")).to_be_visible()
        assert await shown.audited() == []
        await shown.page.get_by_label("1 of 2 models").fill(long_name)
        await shown.page.get_by_role("button", name="Show").click()
        await expect(shown.page.locator(".model h2")).to_have_text(long_name)
        await shown.page.get_by_role("link", name="All").click()
        await expect(shown.page.locator(".model")).to_have_count(2)
        # A stream that is left when another page is opened.
        assert [each for each in shown.complaints if "net::ERR_ABORTED" not in each] == []


async def test_an_empty_registry_says_what_to_do(browser: Browser, topics: MakeTopics, database: str) -> None:
    settings = await topics(1, postgres_dsn=database)
    async with live_page(settings) as process, opened(browser, process.url, NARROW, "dark") as shown:
        await expect(shown.page.locator("#models-none")).to_contain_text("headrace register -f FILE")
        await expect(shown.page.locator("#workers-none")).to_contain_text("headrace worker")
        await expect(shown.page.get_by_role("button")).to_have_count(0)
        assert await shown.audited() == []
        await shown.shot("empty-390-dark")
        assert shown.complaints == []

"""`python -m tests.monitoring.screenshot FILE`: the live page, before the demo with a canary that is raised on the way."""

import asyncio
import os
import re
import sys
from pathlib import Path

from playwright.async_api import ViewportSize, async_playwright

from streams.config.sources import ENV_FILE_VARIABLE
from tests.monitoring.browser import find
from tests.support.stack.command import HEADRACE, environment

BEFORE_SECONDS, AFTER_SECONDS = 270.0, 150.0
MODEL = "movie-recommendations"
CANARY = ("canary", MODEL, "v2", "25", "--actor", "ann", "--reason", "hit rate +0.17", "--wait")
SIZE = ViewportSize(width=1280, height=720)
WAIT_MS = 30_000
LARGEST_BYTES = 200_000


async def take(file: Path) -> None:
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.demo"), stderr=asyncio.subprocess.PIPE, env=environment()
    )
    assert demo.stderr is not None
    env_file = await _told(demo.stderr, rf"export {ENV_FILE_VARIABLE}=(\S+)")
    await _told(demo.stderr, r"(^Replaying)")
    # It talks on, and must not wait for a reader.
    reading = asyncio.create_task(demo.stderr.read())
    try:
        variables = {**environment(), ENV_FILE_VARIABLE: env_file}
        await asyncio.sleep(BEFORE_SECONDS)
        raised = await asyncio.create_subprocess_exec(HEADRACE, *CANARY, env=variables)
        assert await raised.wait() == 0
        await asyncio.sleep(AFTER_SECONDS)
        page = await asyncio.create_subprocess_exec(
            *(HEADRACE, "dashboard", "--port", "0"), stdout=asyncio.subprocess.PIPE, env=variables
        )
        assert page.stdout is not None
        try:
            await _shoot((await page.stdout.readline()).decode().strip(), file)
        finally:
            page.terminate()
            await page.wait()
    finally:
        demo.terminate()
        await demo.wait()
        await reading


async def _told(lines: asyncio.StreamReader, pattern: str) -> str:
    while line := (await lines.readline()).decode():
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"the demo ended before {pattern!r}")


async def _shoot(url: str, file: Path) -> None:
    chromium = find()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium.executable, env={**os.environ, **chromium.variables}
        )
        page = await browser.new_page(viewport=SIZE, color_scheme="light")
        await page.goto(url)
        await page.wait_for_selector(".lines path", timeout=WAIT_MS)
        bottom = await page.evaluate(
            "Math.ceil(document.querySelector('.models').getBoundingClientRect().bottom) + 20"
        )
        await page.screenshot(path=file, clip={"x": 0, "y": 0, "width": SIZE["width"], "height": bottom})
        await browser.close()


def main() -> None:
    file = Path(sys.argv[1])
    asyncio.run(take(file))
    size = file.stat().st_size
    if size > LARGEST_BYTES:
        sys.exit(f"{file} has {size} bytes, more than {LARGEST_BYTES}")


if __name__ == "__main__":
    main()

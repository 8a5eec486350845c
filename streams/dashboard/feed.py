"""Reads once a second for all open pages of a process; reads nothing while no page is open."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import orjson

from streams.dashboard.registry_reader import PageReader, chosen
from streams.dashboard.state import Seen, page_state
from streams.process.background import FailureLog

NOT_READ = "live page not read"
READ_EACH_SECONDS = 1.0
# The page shows the server as gone when it gets no event for longer.
READ_WITHIN_SECONDS = 4.0

Names = tuple[str, ...]
"""The models that a page asks for; empty for the first ones."""


class Feed:
    """The documents for all open pages of one process, while `run_reading_loop` runs."""

    def __init__(self, reader: PageReader, *, may_promote: bool) -> None:
        self._reader = reader
        self._may_promote = may_promote
        self._open_pages: Counter[Names] = Counter()
        self._any_open = asyncio.Event()
        self._updated = asyncio.Condition()
        self._seen: Seen | None = None
        self._asked: frozenset[Names] = frozenset()
        self._documents: dict[Names, bytes] = {}
        self._reading = 0

    async def run_reading_loop(self) -> None:
        """Read for the open pages. Runs until it is cancelled."""
        failures = FailureLog(NOT_READ)
        while True:
            await self._any_open.wait()
            asked = frozenset(self._open_pages)
            try:
                async with asyncio.timeout(READ_WITHIN_SECONDS):
                    seen: Seen | None = await self._reader.read(asked)
                failures.succeeded()
            except Exception as error:  # noqa: BLE001  # it is logged and counted
                failures.failed(error)
                seen = None
            async with self._updated:
                self._seen, self._asked, self._documents = seen, asked, {}
                self._reading += 1
                self._updated.notify_all()
            await asyncio.sleep(READ_EACH_SECONDS)

    async def documents(self, names: Names) -> AsyncGenerator[bytes | None]:
        """Yield each new document for a page, as JSON; None when PostgreSQL could not be read."""
        with self._opened(names):
            last = self._reading
            while True:
                async with self._updated:
                    await self._updated.wait_for(lambda: self._reading != last)  # noqa: B023 - it is awaited here
                    last = self._reading
                # A reading that began before this page was opened does not have its models.
                if names in self._asked:
                    yield self._document(names)

    def _document(self, names: Names) -> bytes | None:
        seen = self._seen
        if seen is None:
            return None
        if names not in self._documents:
            shown = chosen(names, list(seen.model_names))
            self._documents[names] = orjson.dumps(page_state(seen, shown, may_promote=self._may_promote))
        return self._documents[names]

    @contextmanager
    def _opened(self, names: Names) -> Iterator[None]:
        self._open_pages[names] += 1
        self._any_open.set()
        try:
            yield
        finally:
            self._open_pages[names] -= 1
            if not self._open_pages[names]:
                del self._open_pages[names]
            if not self._open_pages:
                self._any_open.clear()

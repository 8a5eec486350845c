"""What is read once a second is handed to all who look; while nobody does, nothing is read."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import orjson
import structlog

from streams.dashboard.registry_reader import PageReader, chosen
from streams.dashboard.state import Seen, page_state

log = structlog.get_logger()

READ_EACH_SECONDS = 1.0
# A page that hears nothing for longer takes the server to be gone.
READ_WITHIN_SECONDS = 4.0

Names = tuple[str, ...]
"""The models that a page asks for; none = the first ones."""


class Feed:
    """The documents of all pages of one process; `run_reading_loop` must run meanwhile."""

    def __init__(self, reader: PageReader, *, may_promote: bool) -> None:
        self._reader = reader
        self._may_promote = may_promote
        self._looking: Counter[Names] = Counter()
        self._somebody = asyncio.Event()
        self._news = asyncio.Condition()
        self._seen: Seen | None = None
        self._asked: frozenset[Names] = frozenset()
        self._documents: dict[Names, bytes] = {}
        self._reading = 0

    async def run_reading_loop(self) -> None:
        """Read for those who look. Ends when cancelled."""
        works = True
        while True:
            await self._somebody.wait()
            asked = frozenset(self._looking)
            try:
                async with asyncio.timeout(READ_WITHIN_SECONDS):
                    seen: Seen | None = await self._reader.read(asked)
                works = True
            # Whatever it is: what the page cannot show must not end the monitor that serves it.
            except Exception as error:  # noqa: BLE001
                if works:
                    log.warning("the page is not read", reason=str(error) or repr(error))
                works, seen = False, None
            async with self._news:
                self._seen, self._asked, self._documents = seen, asked, {}
                self._reading += 1
                self._news.notify_all()
            await asyncio.sleep(READ_EACH_SECONDS)

    async def documents(self, names: Names) -> AsyncGenerator[bytes | None]:
        """A page's documents, as JSON, as they come; None when PostgreSQL could not be read."""
        with self._looked_at(names):
            last = self._reading
            while True:
                async with self._news:
                    await self._news.wait_for(lambda: self._reading != last)  # noqa: B023 - it is awaited here
                    last = self._reading
                # A reading that had begun before this page came is not for it.
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
    def _looked_at(self, names: Names) -> Iterator[None]:
        self._looking[names] += 1
        self._somebody.set()
        try:
            yield
        finally:
            self._looking[names] -= 1
            if not self._looking[names]:
                del self._looking[names]
            if not self._looking:
                self._somebody.clear()

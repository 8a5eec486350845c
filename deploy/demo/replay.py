"""Ratings sent as requests at a steady rate, and what became of them."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import cycle

from deploy.demo.movielens import MovieLens
from deploy.demo.publish import MODEL_NAME
from deploy.demo.ratings import Ratings
from schemas.errors import HeadraceError
from schemas.events import JsonObject, PredictResponse
from schemas.histogram import HistogramBuilder, quantile
from streams.clients.predict_client import PredictClient

# Whoever kills the worker has time to start another one before a request counts as lost.
_ANSWER_SECONDS = 30.0
# After a pause (the machine slept) the rate goes on; what was missed is not made up for.
_CATCH_UP_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Visit:
    """A user who asks what to watch next."""

    user_id: str
    user_idx: int

    @property
    def input(self) -> JsonObject:
        return {"user_idx": self.user_idx}


@dataclass(slots=True)
class Tally:
    """What the client saw; `durations_ms` are from the sending to the answer."""

    sent: int = 0
    answered: int = 0
    errors: int = 0
    cached: int = 0
    by_version: Counter[str] = field(default_factory=Counter)
    durations_ms: HistogramBuilder = field(default_factory=HistogramBuilder)
    last_trouble: str = ""

    def count(self, response: PredictResponse, duration_ms: float) -> None:
        self.answered += 1
        self.cached += response.cached
        self.durations_ms.add(duration_ms)
        self.by_version[response.model_version] += 1
        if response.error is not None:
            self.errors += 1
            self.last_trouble = f"{response.error.code}: {response.error.message}"

    @property
    def waiting(self) -> int:
        """Requests without an answer: on their way, and once the replay has ended, lost."""
        return self.sent - self.answered

    def closed(self, versions: Iterable[str]) -> JsonObject:
        """The result after the end, as one JSON object; it lists `versions` also where none answered."""
        durations = self.durations_ms.taken()
        return {
            "sent": self.sent,
            "answered": self.answered,
            "lost": self.waiting,
            "errors": self.errors,
            "cached": self.cached,
            "by_version": dict.fromkeys(versions, 0) | dict(self.by_version),
            "p50_ms": round(quantile(durations, 0.5), 2),
            "p99_ms": round(quantile(durations, 0.99), 2),
        }


def visits(movielens: MovieLens, ratings: Ratings) -> Iterator[Visit]:
    """Whoever rated, in the ratings' order, again and again."""
    users = ratings.user_idx.tolist()
    return (Visit(f"u{movielens.user_ids[user]}", user) for user in cycle(users))


async def ask(client: PredictClient, visit: Visit, tally: Tally) -> PredictResponse | None:
    """Send one request and count its answer; None when there is none."""
    loop = asyncio.get_running_loop()
    tally.sent += 1
    sent_at = loop.time()
    try:
        response = await client.predict(
            MODEL_NAME, user_id=visit.user_id, input=visit.input, timeout_seconds=_ANSWER_SECONDS
        )
    except HeadraceError as error:
        tally.last_trouble = str(error)
        return None
    tally.count(response, (loop.time() - sent_at) * 1000)
    return response


async def replay(
    client: PredictClient,
    requests: Iterator[Visit],
    tally: Tally,
    *,
    requests_per_second: float,
    stop: asyncio.Event,
) -> None:
    """Send until `stop` is set, and return when the last request is answered or given up."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as asking:
        due = loop.time()
        for visit in requests:
            await asyncio.sleep(due - loop.time())
            if stop.is_set():
                break
            asking.create_task(ask(client, visit, tally))
            due = max(due + 1 / requests_per_second, loop.time() - _CATCH_UP_SECONDS)

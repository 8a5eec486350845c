"""Ratings sent as requests at a steady rate, and what became of them."""

import asyncio
from collections.abc import Iterator
from itertools import cycle

from deploy.demo.movielens import MovieLens
from deploy.demo.plan import MODEL_NAME, Tally, Visit
from deploy.demo.ratings import Ratings
from schemas.errors import HeadraceError
from schemas.events import PredictResponse
from streams.clients.predict_client import PredictClient

# Whoever kills the worker has time to start another one before a request counts as lost.
_ANSWER_SECONDS = 30.0
# After a pause (the machine slept) the rate goes on; what was missed is not made up for.
_CATCH_UP_SECONDS = 0.1


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

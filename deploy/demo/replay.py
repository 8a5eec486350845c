"""Ratings replayed as requests at a constant rate."""

import asyncio
from collections.abc import Iterator
from itertools import cycle

from deploy.demo.movielens import MovieLens
from deploy.demo.ratings import Ratings
from deploy.demo.scenario import MODEL_NAME, DemoRequest, ReplayCounts
from schemas.errors import HeadraceError
from schemas.events import PredictResponse
from streams.clients.predict_client import PredictClient

# Long enough to kill the worker and start another one before a request counts as lost.
_RESPONSE_SECONDS = 30.0
# After a longer pause (the machine slept) the rate continues, and the missed requests are not sent.
_CATCH_UP_SECONDS = 0.1


def requests_of(movielens: MovieLens, ratings: Ratings) -> Iterator[DemoRequest]:
    """A request by the user of each rating, in the ratings' order, repeated without end."""
    users = ratings.user_idx.tolist()
    return (DemoRequest(f"u{movielens.user_ids[user]}", user) for user in cycle(users))


async def send(client: PredictClient, request: DemoRequest, counts: ReplayCounts) -> PredictResponse | None:
    """Send one request and count its response; None when it gets none."""
    loop = asyncio.get_running_loop()
    counts.sent += 1
    sent_at = loop.time()
    try:
        response = await client.predict(
            MODEL_NAME, user_id=request.user_id, input=request.input, timeout_seconds=_RESPONSE_SECONDS
        )
    except HeadraceError as error:
        counts.last_error = str(error)
        return None
    counts.count(response, (loop.time() - sent_at) * 1000)
    return response


async def replay(
    client: PredictClient,
    requests: Iterator[DemoRequest],
    counts: ReplayCounts,
    *,
    requests_per_second: float,
    stop: asyncio.Event,
) -> None:
    """Send requests until `stop` is set; returns when each has a response or its timeout."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as sending:
        due = loop.time()
        for request in requests:
            await asyncio.sleep(due - loop.time())
            if stop.is_set():
                break
            sending.create_task(send(client, request, counts))
            due = max(due + 1 / requests_per_second, loop.time() - _CATCH_UP_SECONDS)

"""deploy/demo/replay.py with a client in memory."""

import asyncio
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any, cast

from deploy.demo.replay import replay
from deploy.demo.scenario import DemoRequest, ReplayCounts
from schemas.errors import ResponseTimeoutError
from schemas.events import PredictResponse
from streams.clients.predict_client import PredictClient


class FakeClient:
    """Answers each request by `answer` of its number, from 1, and stops the replay after `stop_after`."""

    def __init__(self, answer: Callable[[int], PredictResponse], stop_after: int) -> None:
        self.stop = asyncio.Event()
        self.inputs: list[Any] = []
        self._answer = answer
        self._stop_after = stop_after

    async def predict(self, _model_name: str, **request: Any) -> PredictResponse:
        self.inputs.append(request["input"])
        number = len(self.inputs)
        if number == self._stop_after:
            self.stop.set()
        return self._answer(number)

    async def replayed(self) -> ReplayCounts:
        """Replay requests of the users 0, 1, 2, 0, 1, …"""
        counts = ReplayCounts()
        await replay(
            cast("PredictClient", self),
            cycle(DemoRequest(f"u{user}", user) for user in range(3)),
            counts,
            requests_per_second=1000,
            stop=self.stop,
        )
        return counts


def response_of(version: str, **fields: Any) -> PredictResponse:
    always = {"request_id": "r", "model_name": "m", "user_id": "u", "latency_ms": 1.0, "revision": 4}
    return PredictResponse.model_validate(
        {"model_version": version, "cached": False, "stale": False, **always, **fields}
    )


async def test_a_replay_counts_each_response() -> None:
    """Sent is answered plus lost; an error response counts as answered, by its version."""

    def answer(number: int) -> PredictResponse:
        if number == 3:
            raise ResponseTimeoutError("r", 30)
        if number == 4:
            return response_of("v1", error={"code": "INTERNAL", "message": "no luck", "details": []})
        return response_of("v2" if number == 5 else "v1", cached=number > 5, predictions=[1])

    client = FakeClient(answer, stop_after=8)
    counts = await client.replayed()
    result = counts.summary(["v1", "v2", "v3"])
    assert result.pop("p99_ms") >= result.pop("p50_ms") >= 0
    assert result == {
        "sent": 8,
        "answered": 7,
        "lost": 1,
        "errors": 1,
        "cached": 3,
        "by_version": {"v1": 6, "v2": 1, "v3": 0},
    }
    assert counts.last_error == "INTERNAL: no luck"
    assert [each["user_idx"] for each in client.inputs] == [0, 1, 2, 0, 1, 2, 0, 1]


async def test_a_replay_keeps_its_rate() -> None:
    """200 requests at 1,000 a second take at least 0.1 s, because at most 0.1 s is caught up."""
    started_at = time.monotonic()
    counts = await FakeClient(lambda _: response_of("v1"), stop_after=200).replayed()
    assert counts.answered >= 200
    assert time.monotonic() - started_at >= 0.09

"""The demo's traffic with a client that needs no Kafka, and its data with a pip that needs no network."""

import asyncio
import time
import zipfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import pytest

from deploy.demo.movielens import load_movielens
from deploy.demo.plan import Tally, Visit
from deploy.demo.replay import replay
from schemas.errors import ResponseTimeoutError, SetupError
from schemas.events import PredictResponse
from streams.clients.predict_client import PredictClient


class FakeClient:
    """Answers by a function of the request's number, from 1, and stops the replay after some."""

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

    async def replayed(self) -> Tally:
        """What became of visits of the users 0, 1, 2, 0, 1, …"""
        tally = Tally()
        await replay(
            cast("PredictClient", self),
            cycle(Visit(f"u{user}", user) for user in range(3)),
            tally,
            requests_per_second=1000,
            stop=self.stop,
        )
        return tally


def response_of(version: str, **fields: Any) -> PredictResponse:
    always = {"request_id": "r", "model_name": "m", "user_id": "u", "latency_ms": 1.0, "revision": 4}
    return PredictResponse.model_validate(
        {"model_version": version, "cached": False, "stale": False, **always, **fields}
    )


async def test_a_replay_counts_what_became_of_each_request() -> None:
    """Sent is answered plus lost; errors are answers; versions are counted by what answered."""

    def answer(number: int) -> PredictResponse:
        if number == 3:
            raise ResponseTimeoutError("r", 30)
        if number == 4:
            return response_of("v1", error={"code": "INTERNAL", "message": "no luck", "details": []})
        return response_of("v2" if number == 5 else "v1", cached=number > 5, predictions=[1])

    client = FakeClient(answer, stop_after=8)
    tally = await client.replayed()
    result = tally.closed(["v1", "v2", "v3"])
    assert result.pop("p99_ms") >= result.pop("p50_ms") >= 0
    assert result == {
        "sent": 8,
        "answered": 7,
        "lost": 1,
        "errors": 1,
        "cached": 3,
        "by_version": {"v1": 6, "v2": 1, "v3": 0},
    }
    assert tally.last_trouble == "INTERNAL: no luck"
    assert [each["user_idx"] for each in client.inputs] == [0, 1, 2, 0, 1, 2, 0, 1]


async def test_a_replay_keeps_its_rate() -> None:
    """200 requests at 1,000 a second take 0.1 s at least: no more than 0.1 s is ever made up for."""
    started_at = time.monotonic()
    tally = await FakeClient(lambda _: response_of("v1"), stop_after=200).replayed()
    assert tally.answered >= 200
    assert time.monotonic() - started_at >= 0.09


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a pip that finds packages in the folder `offered` only."""
    (tmp_path / "offered").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "offered"))
    return tmp_path / "cache" / "headrace"


def test_data_that_cannot_be_downloaded_is_told_with_pips_reason(cache: Path) -> None:
    """The message names the package, and nothing is left in the cache."""
    with pytest.raises(
        SetupError, match=r"(?s)pip cannot download recbole==[\d.]+, .*No matching distribution"
    ):
        load_movielens(lambda _: None)
    assert list(cache.iterdir()) == []


def test_another_file_of_the_same_name_is_refused(cache: Path, tmp_path: Path) -> None:
    """Neither what pip brings nor what is in the cache is read unless it is the file that was meant."""
    name = "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / "offered" / name, "w") as archive:
        archive.writestr(
            "recbole-1.2.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n"
        )
        archive.writestr("recbole-1.2.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    cache.mkdir(parents=True)
    (cache / name).write_bytes(b"damaged")
    with pytest.raises(SetupError, match="is not the file"):
        load_movielens(lambda _: None)
    assert (cache / name).read_bytes() == b"damaged"

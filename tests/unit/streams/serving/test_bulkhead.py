"""streams/serving/bulkhead.py: which requests may wait for a version, and through the pipeline what they get."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DeadlineOutOfReachError, OverloadedError
from schemas.events import JsonObject
from streams.serving.bulkhead import Bulkhead, Refusals
from streams.serving.requests import RequestContext
from streams.serving.route_table import ServedVersion
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend, record_of, served_version
from tests.support.worker.pipeline_harness import Canary, GatedBackend, Harness, request, slice_of


@dataclass
class BusyDispatcher:
    """Says how long a new input waits."""

    wait_seconds: float = 0.0

    def least_wait_seconds(self) -> float:
        return self.wait_seconds

    def infer(self, inputs: Sequence[JsonObject], **_: object) -> AsyncGenerator[tuple[int, list[Any]], None]:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to close."""


@dataclass
class Queue:
    """A version of a worker, and what waits for it."""

    version: ServedVersion
    bulkhead: Bulkhead = field(default_factory=Bulkhead)

    @classmethod
    def of(cls, wait_seconds: float = 0.0, **spec: Any) -> "Queue":
        version = served_version("m", "v1", RecordingBackend(), **spec)
        return cls(replace(version, dispatcher=BusyDispatcher(wait_seconds)))

    def admit(self, requests: Sequence[RequestContext]) -> tuple[list[RequestContext], Refusals]:
        by_version = {self.version: list(requests)}
        refused = self.bulkhead.admit(by_version, time.time() * 1000)
        assert refused.keys() <= {self.version}
        return by_version[self.version], refused.get(self.version, {})

    def enter(self, requests: Sequence[RequestContext]) -> None:
        self.bulkhead.enter(self.version, requests)

    def leave(self, requests: Sequence[RequestContext]) -> None:
        self.bulkhead.leave(self.version, requests)

    @property
    def waiting(self) -> int:
        return self.bulkhead.waiting("m", "v1")


def requests_of(*sizes: int, deadline_ms: float | None = None) -> list[RequestContext]:
    """Requests with records of these sizes in bytes; the deadline is from now."""
    requests = [RequestContext(record_of(b"x" * size)) for size in sizes]
    if deadline_ms is not None:
        for each in requests:
            each.deadline_unix_ms = time.time() * 1000 + deadline_ms
    return requests


def test_without_limits_all_may_wait() -> None:
    """A backlog is held back, and not refused."""
    queue = Queue.of()
    queue.enter(requests_of(*[100] * 100_000))
    admitted, refused = queue.admit(requests_of(*[100] * 1000))
    assert (len(admitted), refused, queue.waiting) == (1000, {}, 100_000)


@given(
    st.none() | st.integers(1, 12),
    st.none() | st.integers(1, 60),
    st.lists(st.tuples(st.lists(st.integers(0, 20), max_size=8), st.integers(0, 8)), max_size=12),
)
def test_limits_hold_whatever_comes(
    max_waiting: int | None, max_waiting_bytes: int | None, slices: list[tuple[list[int], int]]
) -> None:
    """The first requests of a slice are admitted, as many as fit; what has left makes room again."""
    queue = Queue.of(max_waiting=max_waiting, max_waiting_bytes=max_waiting_bytes)
    groups: list[list[RequestContext]] = []
    for sizes, left in slices:
        held = sum(map(len, groups))
        held_bytes = sum(_size(each) for group in groups for each in group)
        requests = requests_of(*sizes)
        admitted, refused = queue.admit(requests)
        assert [*admitted, *refused] == requests
        assert all(type(error) is OverloadedError for error in refused.values())
        held += len(admitted)
        held_bytes += sum(map(_size, admitted))
        assert max_waiting is None or held <= max_waiting
        assert max_waiting_bytes is None or held_bytes <= max_waiting_bytes
        if refused:
            first = next(iter(refused))
            assert held == max_waiting or (
                max_waiting_bytes is not None and held_bytes + _size(first) > max_waiting_bytes
            )
        queue.enter(admitted)
        groups.append(admitted)
        assert queue.waiting == held
        group = groups[left % len(groups)]
        queue.leave(group[:1])
        del group[:1]
    for group in groups:
        queue.leave(group)
    assert queue.waiting == 0


def _size(each: RequestContext) -> int:
    return len(each.record.value or b"")


def test_a_deadline_out_of_reach_is_refused_at_once() -> None:
    """A later deadline, and none, may wait."""
    queue = Queue.of(wait_seconds=60.0)
    soon, later, never = requests_of(1, deadline_ms=1000), requests_of(1, deadline_ms=600_000), requests_of(1)
    admitted, refused = queue.admit([*soon, *later, *never])
    assert admitted == [*later, *never]
    ((late, error),) = refused.items()
    assert late is soon[0]
    assert isinstance(error, DeadlineOutOfReachError)
    assert error.message == "deadline_ms cannot be met: requests wait at least 60 s for v1 now"


def test_what_comes_too_late_takes_no_room() -> None:
    """Nobody is refused with OVERLOADED for a request that does not wait."""
    queue = Queue.of(wait_seconds=60.0, max_waiting=1)
    late, patient = requests_of(1, deadline_ms=1000), requests_of(1)
    admitted, refused = queue.admit([*late, *patient])
    assert (admitted, list(refused)) == (patient, late)


async def test_overloaded_is_answered_while_the_others_wait() -> None:
    """Without a dead letter, and counted by its code; room is there again afterwards."""
    backend = GatedBackend()
    harness = Harness(served_version("m", "v1", backend, max_waiting=2))
    waiting = asyncio.create_task(
        harness.pipeline.process(slice_of(*[request(f"r{at}", at) for at in range(4)]))
    )
    await backend.until_called()
    await until_answered(harness, 2)
    answers = harness.output.answers()
    assert {name: answer["error"]["code"] for name, answer in answers.items()} == {
        "r2": "OVERLOADED",
        "r3": "OVERLOADED",
    }
    assert harness.pipeline.bulkhead.waiting("m", "v1") == 2
    assert (await harness.answer(request("another", 9)))["another"]["error"]["code"] == "OVERLOADED"
    backend.gate.set()
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)
    assert harness.pipeline.bulkhead.waiting("m", "v1") == 0
    assert (await harness.answer(request("afterwards", 10)))["afterwards"]["predictions"] == [{"x": 10}]
    assert harness.output.dead_letters() == []
    counters = harness.metrics.lifetime_counters("m", "v1")
    assert (counters.ok, counters.errors) == (3, {"OVERLOADED": 3})


@pytest.mark.parametrize(
    ("wait_seconds", "spec", "code"),
    [(0.0, {"max_waiting": 1}, "OVERLOADED"), (60.0, {}, "DEADLINE_EXCEEDED")],
)
async def test_production_answers_for_a_version_with_fallback(
    wait_seconds: float, spec: JsonObject, code: str
) -> None:
    """At once, while the request before it waits for the canary."""
    canary = Canary(RecordingBackend(), hanging := GatedBackend(), spec)
    first = canary.begin(canary.request("first", 1, of=canary.v2))
    await hanging.until_called()
    if wait_seconds:
        canary.v2.dispatcher.least_wait_seconds = lambda: wait_seconds  # type: ignore[method-assign]
    second = canary.request("second", 2, of=canary.v2, deadline_ms=30_000)
    answers = await canary.harness.answer(second)
    assert answers.keys() == {"second"}
    assert (answers["second"]["model_version"], answers["second"]["fallback"]) == ("v1", True)
    hanging.gate.set()
    await asyncio.wait_for(first, DEADLINE_SECONDS)
    assert canary.deltas()["v2"].fallbacks == {code: 1}


async def test_when_production_is_overloaded_too_the_own_error_is_answered() -> None:
    """Production's own limit counts for what it answers in place of others."""
    productions = GatedBackend()
    canary = Canary(productions, GatedBackend(), {"max_waiting": 1}, {"max_waiting": 1})
    own = canary.begin(canary.request("p", 1, of=canary.v1), canary.request("c", 2, of=canary.v2))
    await productions.until_called()
    answers = await canary.harness.answer(canary.request("c2", 3, of=canary.v2))
    assert answers["c2"]["error"] == {
        "code": "OVERLOADED",
        "message": "as many requests wait for v2 as it allows; try again later",
    }
    own.cancel()


async def until_answered(harness: Harness, count: int) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(harness.output.answers()) < count:
            harness.output.arrived.clear()
            await harness.output.arrived.wait()

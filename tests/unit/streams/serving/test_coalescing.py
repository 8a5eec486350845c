"""streams/serving/coalescing.py: which requests share a call, through the pipeline and alone."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InternalError
from schemas.events import JsonObject
from streams.serving.coalescing import MAX_CALL_INPUTS, CoalescedCall, Coalescer, await_call
from streams.serving.requests import RequestContext
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend, record_of, served_version
from tests.support.worker.pipeline_harness import GatedBackend, Harness, request, slice_of


class Calls:
    """A coalescer whose calls end, in any order, when their gates are opened."""

    def __init__(self, *, leaves_out: int = 0, fails: bool = False) -> None:
        self.coalescer = Coalescer(self._infer, self._store)
        self._gates: defaultdict[CoalescedCall, asyncio.Event] = defaultdict(asyncio.Event)
        self._stored: defaultdict[CoalescedCall, asyncio.Event] = defaultdict(asyncio.Event)
        self._leaves_out = leaves_out
        self._fails = fails

    def start(self, *requests: RequestContext) -> dict[CoalescedCall, list[RequestContext]]:
        return self.coalescer.start_calls({VERSION: requests})

    async def end(self, call: CoalescedCall) -> None:
        """Let one call end; returns when it is stored and its entries are dropped."""
        self._gates[call].set()
        await asyncio.wait_for(self._stored[call].wait(), DEADLINE_SECONDS)

    def in_flight(self) -> int:
        """The number of inputs for which the coalescer keeps a call."""
        # White-box: an entry that stays behind is a leak, which no later request shows.
        return sum(len(calls) or 1 for calls in self.coalescer._in_flight.values())

    async def _infer(self, call: CoalescedCall) -> None:
        await self._gates[call].wait()
        if self._fails:
            raise ZeroDivisionError
        for digest in call.digests[self._leaves_out :]:
            call.results[digest] = b"1"

    async def _store(self, call: CoalescedCall) -> None:
        self._stored[call].set()


VERSION = served_version("m", "v1", RecordingBackend())


def a_request(digest: int, deadline_unix_ms: float | None = None) -> RequestContext:
    made = RequestContext(record_of(b""))
    made.digest = b"%d" % digest
    made.input = {"x": digest}
    if deadline_unix_ms is not None:
        made.deadline_unix_ms = deadline_unix_ms
    return made


async def test_a_call_that_was_taken_over_leaves_nothing_behind() -> None:
    """Also where the later call ends first: neither call is joined after its end."""
    for order in (1, -1):
        calls = Calls()
        (early,) = calls.start(a_request(1, deadline_unix_ms=1000.0), a_request(2, deadline_unix_ms=1000.0))
        (late,) = calls.start(a_request(1))
        assert early is not late
        for call in [early, late][::order]:
            await calls.end(call)
        assert calls.in_flight() == 0
        (again,) = calls.start(a_request(1, deadline_unix_ms=1000.0), a_request(2, deadline_unix_ms=1000.0))
        assert again not in (early, late)
        assert again.digests == [b"1", b"2"]
        await calls.coalescer.close()


async def test_inputs_without_a_result_get_internal() -> None:
    """An internal fault concerns only the inputs without a result."""
    calls = Calls(leaves_out=1)
    (call,) = calls.start(a_request(1), a_request(2))
    await calls.end(call)
    assert call.done.done()
    assert isinstance(call.results[b"1"], InternalError)
    assert call.results[b"2"] == b"1"
    assert calls.coalescer.calls_done == 1


async def test_a_call_with_an_internal_fault_leaves_nothing_behind() -> None:
    """Its requests get INTERNAL, it is stored and counted, and the next request starts a new call."""
    calls = Calls(fails=True)
    (call,) = calls.start(a_request(1), a_request(2))
    assert calls.in_flight() == 2
    await calls.end(call)
    assert {type(result) for result in call.results.values()} == {InternalError}
    assert call.results.keys() == {b"1", b"2"}
    assert calls.coalescer.calls_done == 1
    assert calls.in_flight() == 0
    (again,) = calls.start(a_request(1))
    assert again is not call
    await calls.coalescer.close()


async def test_a_call_has_a_largest_size() -> None:
    """More inputs make a second call."""
    calls = Calls()
    waiting = calls.start(*(a_request(number) for number in range(MAX_CALL_INPUTS + 1)))
    assert [len(call.digests) for call in waiting] == [MAX_CALL_INPUTS, 1]
    await calls.coalescer.close()


async def test_awaiting_ends_at_the_first_deadline() -> None:
    """The call itself goes on."""
    calls = Calls()
    overdue, patient = a_request(1, deadline_unix_ms=0.0), a_request(1)
    (call,) = calls.start(overdue, patient)
    await asyncio.wait_for(await_call(call, [overdue, patient]), DEADLINE_SECONDS)
    assert not call.done.done()
    await calls.end(call)
    await asyncio.wait_for(await_call(call, [patient]), DEADLINE_SECONDS)
    assert call.done.done()


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(1, 5)), min_size=1, max_size=12))
async def test_a_request_shares_a_call_that_lasts_long_enough(
    slices: Sequence[tuple[int, int | None]],
) -> None:
    """Each request, a slice of its own here, waits for one call with its input and a deadline not before its own."""
    calls = Calls()
    for digest, deadline_ms in slices:
        own = a_request(digest, deadline_ms)
        ((call, waiting),) = calls.start(own).items()
        assert waiting == [own]
        assert own.digest in call.digests
        assert call.deadline_unix_seconds >= (math.inf if deadline_ms is None else deadline_ms / 1000)
    await calls.coalescer.close()


async def test_equal_inputs_of_a_slice_are_inferred_once() -> None:
    """Three requests with two inputs make one backend call of two."""
    backend = RecordingBackend()
    answers = await Harness(served_version("m", "v1", backend)).answer(
        request("a", 1), request("b", 2), request("c", 1)
    )
    assert [len(call) for call in backend.calls] == [2]
    assert answers["a"]["predictions"] == answers["c"]["predictions"] != answers["b"]["predictions"]


async def test_equal_inputs_of_slices_in_flight_are_inferred_once() -> None:
    """A slice with an input that a call in flight infers waits for that call."""
    backend = GatedBackend()
    harness = Harness(served_version("m", "v1", backend))
    first = asyncio.create_task(harness.pipeline.process(slice_of(request("a"))))
    await backend.until_called()
    second = asyncio.create_task(harness.pipeline.process(slice_of(request("b"))))
    await harness.cache.until_read(2)
    backend.gate.set()
    await asyncio.wait_for(asyncio.gather(first, second), DEADLINE_SECONDS)
    assert [len(call) for call in backend.calls] == [1]
    assert harness.output.answers().keys() == {"a", "b"}


async def test_a_request_with_a_later_deadline_gets_a_call_of_its_own() -> None:
    """The call in flight ends at the deadline of the requests that it was started for."""
    backend = GatedBackend()
    harness = Harness(served_version("m", "v1", backend))
    short = asyncio.create_task(harness.pipeline.process(slice_of(request("short", deadline_ms=300))))
    await backend.until_called()
    backend.called.clear()
    patient = asyncio.create_task(harness.pipeline.process(slice_of(request("patient"))))
    await backend.until_called()
    await asyncio.wait_for(short, DEADLINE_SECONDS)
    assert harness.output.answers()["short"]["error"]["code"] == "DEADLINE_EXCEEDED"
    backend.gate.set()
    await asyncio.wait_for(patient, DEADLINE_SECONDS)
    assert harness.output.answers()["patient"]["predictions"] == [{"x": 1}]


@pytest.mark.parametrize("more", [{}, {"deadline_ms": 60_000}])
async def test_a_request_with_an_earlier_deadline_joins_the_call_in_flight(more: JsonObject) -> None:
    """Equal inputs are inferred once."""
    backend = GatedBackend()
    harness = Harness(served_version("m", "v1", backend))
    first = asyncio.create_task(harness.pipeline.process(slice_of(request("first"))))
    await backend.until_called()
    joins = asyncio.create_task(harness.pipeline.process(slice_of(request("joins", **more))))
    await harness.cache.until_read(2)
    backend.gate.set()
    await asyncio.wait_for(asyncio.gather(first, joins), DEADLINE_SECONDS)
    assert len(backend.calls) == 1
    assert harness.output.answers().keys() == {"first", "joins"}


async def test_a_call_lasts_until_the_latest_deadline_of_its_slice() -> None:
    """In any order of the requests."""
    for order in (1, -1):
        backend = GatedBackend()
        harness = Harness(served_version("m", "v1", backend))
        records = [request("short", deadline_ms=50), request("patient")][::order]
        waiting = asyncio.create_task(harness.pipeline.process(slice_of(*records)))
        await backend.until_called()
        while "short" not in harness.output.answers():
            harness.output.arrived.clear()
            await asyncio.wait_for(harness.output.arrived.wait(), DEADLINE_SECONDS)
        backend.gate.set()
        await asyncio.wait_for(waiting, DEADLINE_SECONDS)
        assert harness.output.answers()["patient"]["predictions"] == [{"x": 1}]
        assert len(backend.calls) == 1

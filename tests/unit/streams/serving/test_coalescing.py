"""streams/serving/coalescing.py: which requests share a call, through the pipeline and alone."""

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InternalError
from schemas.events import JsonObject
from streams.serving.bulkhead import Bulkhead
from streams.serving.coalescing import MAX_CALL_INPUTS, CoalescedCall, Coalescer
from streams.serving.fallback import CallResult
from streams.serving.output_buffer import OutputBuffer
from streams.serving.requests import RequestContext
from streams.serving.waiting_requests import WaitingRequests
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend, record_of, served_version
from tests.support.worker.pipeline_harness import GatedBackend, Harness, request, slice_of


class Calls:
    """A coalescer whose calls end, in any order, when their gates are opened."""

    def __init__(self, *, leaves_out: int = 0, fails: bool = False) -> None:
        self.coalescer = Coalescer(self._infer, self._store)
        self.started: list[CoalescedCall] = []
        self._gates: defaultdict[CoalescedCall, asyncio.Event] = defaultdict(asyncio.Event)
        self._leaves_out = leaves_out
        self._fails = fails

    async def start(self, *requests: RequestContext) -> WaitingRequests:
        """The requests of one slice; returns when their calls have begun."""
        waiting = WaitingRequests(slice_of(*[{}] * len(requests)), Bulkhead(), OutputBuffer(1 << 26))
        self.coalescer.start_calls({VERSION: requests}, waiting)
        await asyncio.sleep(0)
        return waiting

    async def end(self, call: CoalescedCall) -> None:
        """Let one call end; returns when its entries are dropped."""
        self._gates[call].set()
        await asyncio.wait_for(self.coalescer._tasks[call], DEADLINE_SECONDS)

    def in_flight(self) -> int:
        """The number of inputs for which the coalescer keeps a call."""
        # White-box: an entry that stays behind is a leak, which no later request shows.
        return sum(len(calls) or 1 for calls in self.coalescer._in_flight.values())

    async def _infer(self, call: CoalescedCall) -> AsyncGenerator[tuple[int, Sequence[CallResult]], None]:
        self.started.append(call)
        await self._gates[call].wait()
        if self._fails:
            raise ZeroDivisionError
        yield self._leaves_out, [b"1"] * (len(call.digests) - self._leaves_out)

    async def _store(self, *_: object) -> None:
        """There is no cache."""


VERSION = served_version("m", "v1", RecordingBackend())


def a_request(digest: int, deadline_unix_ms: float | None = None) -> RequestContext:
    made = RequestContext(record_of(b""))
    made.digest = b"%d" % digest
    made.input = {"x": digest}
    if deadline_unix_ms is not None:
        made.deadline_unix_ms = deadline_unix_ms
    return made


def results_of(waiting: WaitingRequests) -> dict[bytes, CallResult]:
    """The results that came since the last time, by digest."""
    turn = waiting.take(0.0)
    return {
        request.digest: result
        for requests, results in turn.ready.values()
        for request, result in zip(requests, results, strict=True)
    }


async def test_requests_of_two_objects_of_a_version_get_their_results() -> None:
    """A slice of an older table calls the one, a slice of a newer table the other; both wait under their own."""
    calls = Calls()
    older = await calls.start(a_request(1))
    newer = WaitingRequests(slice_of({}), Bulkhead(), OutputBuffer(1 << 26))
    calls.coalescer.start_calls({served_version("m", "v1", RecordingBackend()): [a_request(1)]}, newer)
    await asyncio.sleep(0)
    for call in list(calls.started):
        await calls.end(call)
    assert results_of(older) == results_of(newer) == {b"1": b"1"}
    assert not newer
    assert calls.in_flight() == 0
    await calls.coalescer.close()


async def test_a_call_that_was_taken_over_leaves_nothing_behind() -> None:
    """Also where the later call ends first: neither call is joined after its end."""
    for order in (1, -1):
        calls = Calls()
        await calls.start(a_request(1, deadline_unix_ms=1000.0), a_request(2, deadline_unix_ms=1000.0))
        await calls.start(a_request(1))
        early, late = calls.started
        for call in [early, late][::order]:
            await calls.end(call)
        assert calls.in_flight() == 0
        await calls.start(a_request(1, deadline_unix_ms=1000.0), a_request(2, deadline_unix_ms=1000.0))
        again = calls.started[-1]
        assert again not in (early, late)
        assert again.digests == [b"1", b"2"]
        await calls.coalescer.close()


async def test_inputs_without_a_result_get_internal() -> None:
    """An internal fault concerns only the inputs without a result."""
    calls = Calls(leaves_out=1)
    waiting = await calls.start(a_request(1), a_request(2))
    await calls.end(calls.started[0])
    results = results_of(waiting)
    assert isinstance(results[b"1"], InternalError)
    assert results[b"2"] == b"1"
    assert not waiting


async def test_a_call_with_an_internal_fault_leaves_nothing_behind() -> None:
    """Its requests get INTERNAL, and the next request starts a new call."""
    calls = Calls(fails=True)
    waiting = await calls.start(a_request(1), a_request(2))
    joined = await calls.start(a_request(2))
    assert calls.in_flight() == 2
    await calls.end(calls.started[0])
    for each, digests in ((waiting, {b"1", b"2"}), (joined, {b"2"})):
        results = results_of(each)
        assert results.keys() == digests
        assert {type(result) for result in results.values()} == {InternalError}
    assert calls.in_flight() == 0
    await calls.start(a_request(1))
    assert len(calls.started) == 2
    await calls.coalescer.close()


async def test_results_are_offered_as_batches_end() -> None:
    """To the slice that started the call and to those that joined, also after the batch's end."""
    parts: asyncio.Queue[tuple[int, list[CallResult]]] = asyncio.Queue()
    stored = asyncio.Event()

    async def infer(_: CoalescedCall) -> AsyncGenerator[tuple[int, list[CallResult]], None]:
        yield await parts.get()
        yield await parts.get()

    async def store(*_: object) -> None:
        await stored.wait()

    coalescer = Coalescer(infer, store)
    first, joined, late = (
        WaitingRequests(slice_of({}, {}, {}), Bulkhead(), OutputBuffer(1 << 26)) for _ in range(3)
    )
    coalescer.start_calls({VERSION: [a_request(1), a_request(2), a_request(3)]}, first)
    coalescer.start_calls({VERSION: [a_request(2), a_request(3)]}, joined)
    parts.put_nowait((1, [b"two", b"three"]))
    await asyncio.wait_for(first.wait(), DEADLINE_SECONDS)
    await asyncio.wait_for(joined.wait(), DEADLINE_SECONDS)
    assert results_of(first) == {b"2": b"two", b"3": b"three"}
    assert results_of(joined) == {b"2": b"two", b"3": b"three"}
    assert first
    assert not joined
    coalescer.start_calls({VERSION: [a_request(2)]}, late)
    assert results_of(late) == {b"2": b"two"}
    stored.set()
    parts.put_nowait((0, [b"one"]))
    await asyncio.wait_for(first.wait(), DEADLINE_SECONDS)
    assert results_of(first) == {b"1": b"one"}
    assert not first
    await coalescer.close()


async def test_a_call_that_nobody_waits_for_ends() -> None:
    """When the last slice with one of its inputs is handed back; a new request gets a call of its own at once."""
    calls = Calls()
    first = await calls.start(a_request(1), a_request(2))
    joined = await calls.start(a_request(2), a_request(3))
    shared, own = calls.started
    task = calls.coalescer._tasks[own]
    calls.coalescer.abandon(first)
    await calls.start(a_request(1))
    assert len(calls.started) == 2
    calls.coalescer.abandon(joined)
    again = await calls.start(a_request(2), a_request(3))
    assert [call.digests for call in calls.started[2:]] == [[b"3"]]
    await asyncio.wait([task], timeout=DEADLINE_SECONDS)
    assert task.cancelled()
    await calls.end(calls.started[2])
    await calls.end(shared)
    assert results_of(again) == {b"2": b"1", b"3": b"1"}
    assert calls.in_flight() == 0


async def test_a_call_has_a_largest_size() -> None:
    """More inputs make a second call."""
    calls = Calls()
    await calls.start(*(a_request(number) for number in range(MAX_CALL_INPUTS + 1)))
    assert [len(call.digests) for call in calls.started] == [MAX_CALL_INPUTS, 1]
    await calls.coalescer.close()


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(1, 5)), min_size=1, max_size=12))
async def test_a_request_shares_a_call_that_lasts_long_enough(
    slices: Sequence[tuple[int, int | None]],
) -> None:
    """Each request, a slice of its own here, waits for one call with its input and a deadline not before its own."""
    calls = Calls()
    waiting = [(await calls.start(a_request(*one)), one) for one in slices]
    answered: dict[int, float] = {}
    for call in list(calls.started):
        await calls.end(call)
        for number, (each, (digest, deadline_ms)) in enumerate(waiting):
            for own in results_of(each):
                assert own == b"%d" % digest
                assert own in call.digests
                assert number not in answered
                answered[number] = call.deadline_unix_seconds
                assert call.deadline_unix_seconds >= (math.inf if deadline_ms is None else deadline_ms / 1000)
    assert len(answered) == len(slices)


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

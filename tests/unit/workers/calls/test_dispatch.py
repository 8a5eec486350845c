"""workers/calls/dispatch.py with a backend in memory: batches, callers, deadlines and the breaker.

The real servers are in tests/servers, the scripted ones in tests/contract.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from schemas.errors import (
    BackendBrokenError,
    BackendFailedError,
    BackendUnavailableError,
    DeadlineExceededError,
)
from schemas.events import JsonObject
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingMeter
from workers.calls.dispatch import BREAKER, Dispatcher


class Backend:
    """Doubles `x` when its gate is open; a batch with a `bad` one raises what is there for it."""

    def __init__(self, bad: dict[int, Exception] | None = None) -> None:
        self.bad = bad or {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[list[int]] = []
        self.timeouts: list[float] = []
        self.called = asyncio.Event()
        self.closed = 0

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        self.calls.append([value["x"] for value in inputs])
        self.timeouts.append(timeout_seconds)
        self.called.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.gate.wait()
        except TimeoutError:
            raise BackendUnavailableError("no prediction in time") from None
        for value in inputs:
            if value["x"] in self.bad:
                raise self.bad[value["x"]]
        return [2 * value["x"] for value in inputs]

    async def warm(self) -> None:
        """Nothing to warm."""

    async def close(self) -> None:
        self.closed += 1


def dispatcher_of(backend: Backend, *, meter: RecordingMeter | None = None, **options: Any) -> Dispatcher:
    limits = {"max_batch": 100, "max_calls": 1, "timeout_seconds": DEADLINE_SECONDS} | options
    return Dispatcher(backend, name="m v1", meter=meter or RecordingMeter(), **limits)


def batch(*numbers: int) -> list[JsonObject]:
    return [{"x": number} for number in numbers]


async def ask(dispatcher: Dispatcher, *numbers: int, **options: Any) -> list[Any]:
    return await asyncio.wait_for(dispatcher.infer(batch(*numbers), **options), DEADLINE_SECONDS)


async def test_an_idle_backend_is_called_at_once_and_a_busy_one_with_all_that_waits() -> None:
    """No timer holds the first call back; what comes meanwhile makes the next batch."""
    backend, meter = Backend(), RecordingMeter()
    dispatcher = dispatcher_of(backend, meter=meter, max_batch=4)
    backend.gate.clear()
    callers = [asyncio.create_task(ask(dispatcher, 0))]
    await asyncio.wait_for(backend.called.wait(), DEADLINE_SECONDS)
    callers += [asyncio.create_task(ask(dispatcher, number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    backend.gate.set()
    assert await asyncio.gather(*callers) == [[2 * number] for number in range(6)]
    assert backend.calls == [[0], [1, 2, 3, 4], [5]]
    assert meter.batches == [1, 4, 1]


async def test_callers_that_come_together_share_a_call() -> None:
    """Also where each could have one to itself: those whose call ended ask again in one turn of the loop."""
    backend = Backend()
    dispatcher = dispatcher_of(backend, max_calls=8)
    together = [ask(dispatcher, number) for number in range(6)]
    assert await asyncio.gather(*together) == [[2 * number] for number in range(6)]
    assert backend.calls == [[0, 1, 2, 3, 4, 5]]


async def test_a_cancelled_caller_harms_no_batch_mate() -> None:
    """While it waits and while it is being worked on."""
    backend = Backend()
    dispatcher = dispatcher_of(backend)
    backend.gate.clear()
    working = asyncio.create_task(ask(dispatcher, 1))
    await asyncio.wait_for(backend.called.wait(), DEADLINE_SECONDS)
    callers = [asyncio.create_task(ask(dispatcher, number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    working.cancel()
    callers[1].cancel()
    await asyncio.sleep(0)
    backend.gate.set()
    assert await callers[0] == [4]
    assert await callers[2] == [8]
    assert backend.calls == [[1], [2, 4]]


async def test_who_is_too_late_is_not_called_for() -> None:
    """The call's time ends with the last deadline of its batch; nothing is sent past one."""
    backend = Backend()
    dispatcher = dispatcher_of(backend, timeout_seconds=5.0)
    now = asyncio.get_running_loop().time()
    assert await ask(dispatcher, 1, deadline_loop_seconds=now + 1) == [2]
    assert 0 < backend.timeouts[0] <= 1
    (outcome,) = await ask(dispatcher, 1, deadline_loop_seconds=now - 1)
    assert isinstance(outcome, DeadlineExceededError)
    assert await ask(dispatcher, 1) == [2]
    assert backend.timeouts[1:] == [5.0]


async def test_a_bad_example_of_one_caller_fails_alone() -> None:
    """In whatever batch it was."""
    backend = Backend({13: BackendFailedError("unlucky")})
    dispatcher = dispatcher_of(backend)
    backend.gate.clear()
    first = asyncio.create_task(ask(dispatcher, 0))
    await asyncio.wait_for(backend.called.wait(), DEADLINE_SECONDS)
    others = [asyncio.create_task(ask(dispatcher, *numbers)) for numbers in ((1, 2), (3, 13), (4,))]
    await asyncio.sleep(0)
    backend.gate.set()
    assert await first == [0]
    assert await others[0] == [2, 4]
    good, bad = await others[1]
    assert good == 6
    assert isinstance(bad, BackendFailedError)
    assert await others[2] == [8]


async def test_a_fault_of_ours_reaches_its_callers() -> None:
    """And nobody waits for ever; the next one is called for."""
    backend = Backend({13: ZeroDivisionError("a fault")})
    dispatcher = dispatcher_of(backend)
    with pytest.raises(ZeroDivisionError):
        await ask(dispatcher, 13)
    assert await ask(dispatcher, 1) == [2]


@pytest.mark.parametrize("error", [BackendUnavailableError("down"), BackendBrokenError("garbage")])
async def test_a_broken_server_is_spared_and_tried_out(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After failures in a row nobody calls; then one example goes, and its answer lets all through again."""
    backend, meter = Backend({13: error}), RecordingMeter()
    dispatcher = dispatcher_of(backend, meter=meter)
    for _ in range(BREAKER.failures):
        assert [type(outcome) for outcome in await ask(dispatcher, 13)] == [type(error)]
    assert meter.opened == 1
    backend.calls.clear()
    (outcome,) = await ask(dispatcher, 1)
    assert isinstance(outcome, BackendUnavailableError)
    assert str(outcome) == f"the model server is not called for now: {error}"
    assert backend.calls == []

    loop = asyncio.get_running_loop()
    later = loop.time() + BREAKER.open_seconds
    monkeypatch.setattr(loop, "time", lambda: later)
    probe, *others = await dispatcher.infer(batch(1, 2, 3))
    assert probe == 2
    assert backend.calls == [[1]]
    assert all(isinstance(other, BackendUnavailableError) for other in others)
    assert await dispatcher.infer(batch(1, 2, 3)) == [2, 4, 6]


async def test_what_is_refused_for_its_content_opens_no_breaker() -> None:
    """A user who sends nonsense cannot take the model from the others."""
    backend = Backend({13: BackendFailedError("shape")})
    dispatcher = dispatcher_of(backend)
    for _ in range(3 * BREAKER.failures):
        assert isinstance((await ask(dispatcher, 13))[0], BackendFailedError)
    assert await ask(dispatcher, 1) == [2]


async def test_a_call_that_a_deadline_cut_short_says_little() -> None:
    """Short deadlines of one user do not open the breaker for the others."""
    backend = Backend()
    dispatcher = dispatcher_of(backend)
    backend.gate.clear()
    loop = asyncio.get_running_loop()
    for _ in range(3 * BREAKER.failures):
        (outcome,) = await ask(dispatcher, 1, deadline_loop_seconds=loop.time() + 0.001)
        assert isinstance(outcome, BackendUnavailableError | DeadlineExceededError)
    backend.gate.set()
    assert await ask(dispatcher, 1) == [2]


async def test_closed_it_fails_those_who_wait() -> None:
    """Whether they wait for a call or in one; to close again is harmless."""
    backend = Backend()
    dispatcher = dispatcher_of(backend)
    backend.gate.clear()
    callers = [asyncio.create_task(ask(dispatcher, number)) for number in (1, 2)]
    await asyncio.wait_for(backend.called.wait(), DEADLINE_SECONDS)
    await dispatcher.close()
    for caller in callers:
        (outcome,) = await caller
        assert isinstance(outcome, BackendUnavailableError)
    await dispatcher.close()
    assert backend.closed == 2

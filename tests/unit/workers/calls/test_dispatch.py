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
    BackendTimeoutError,
    BackendTooLargeError,
    BackendUnavailableError,
    DeadlineExceededError,
    NonFiniteResultError,
)
from schemas.events import JsonObject
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend, RecordingMeter, outcomes_of
from workers.calls.call_bytes import MAX_BYTES
from workers.calls.dispatch import Dispatcher
from workers.calls.health import BREAKER


def doubler(bad: dict[int, Exception] | None = None) -> RecordingBackend:
    """Doubles `x`; a batch with an `x` of `bad` raises its error."""

    def predict(value: JsonObject) -> Any:
        if bad and value["x"] in bad:
            raise bad[value["x"]]
        return 2 * value["x"]

    return RecordingBackend(predict)


def calls_of(backend: RecordingBackend) -> list[list[int]]:
    return [[value["x"] for value in call] for call in backend.calls]


def dispatcher_of(
    backend: RecordingBackend, *, meter: RecordingMeter | None = None, **options: Any
) -> Dispatcher:
    limits = {"max_batch": 100, "max_calls": 1, "timeout_seconds": DEADLINE_SECONDS} | options
    return Dispatcher(backend, name="m v1", meter=meter or RecordingMeter(), **limits)


def batch(*numbers: int) -> list[JsonObject]:
    return [{"x": number} for number in numbers]


async def ask(dispatcher: Dispatcher, *numbers: int, **options: Any) -> list[Any]:
    return await asyncio.wait_for(outcomes_of(dispatcher, batch(*numbers), **options), DEADLINE_SECONDS)


async def test_an_idle_backend_is_called_at_once_and_a_busy_one_in_batches() -> None:
    """No timer delays the first call; inputs that arrive during it form the next batch."""
    backend, meter = doubler(), RecordingMeter()
    dispatcher = dispatcher_of(backend, meter=meter, max_batch=4)
    backend.gate.clear()
    callers = [asyncio.create_task(ask(dispatcher, 0))]
    await asyncio.wait_for(backend.called.wait(), DEADLINE_SECONDS)
    callers += [asyncio.create_task(ask(dispatcher, number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    backend.gate.set()
    assert await asyncio.gather(*callers) == [[2 * number] for number in range(6)]
    assert calls_of(backend) == [[0], [1, 2, 3, 4], [5]]
    assert meter.batches == [1, 4, 1]


async def test_callers_of_one_loop_iteration_share_a_call() -> None:
    """Also when each could have a call of its own."""
    backend = doubler()
    dispatcher = dispatcher_of(backend, max_calls=8)
    together = [ask(dispatcher, number) for number in range(6)]
    assert await asyncio.gather(*together) == [[2 * number] for number in range(6)]
    assert calls_of(backend) == [[0, 1, 2, 3, 4, 5]]


async def test_the_least_wait_follows_from_what_waits_and_what_was_learned() -> None:
    """It is the time of the batches before a new input and of its own; 0 while nothing waits or was learned."""
    backend = doubler()
    dispatcher = dispatcher_of(backend, max_batch=1)
    assert dispatcher.least_wait_seconds() == 0
    await ask(dispatcher, 0)
    assert dispatcher.least_wait_seconds() == 0
    backend.gate.clear()
    backend.called.clear()
    callers = [asyncio.create_task(outcomes_of(dispatcher, batch(1, 2)))]
    await asyncio.wait_for(backend.called.wait(), DEADLINE_SECONDS)
    behind_one = dispatcher.least_wait_seconds()
    callers.append(asyncio.create_task(outcomes_of(dispatcher, batch(3, 4, 5))))
    await asyncio.sleep(0)
    assert dispatcher.least_wait_seconds() == pytest.approx(behind_one / 2 * 5)
    backend.gate.set()
    await asyncio.gather(*callers)
    assert dispatcher.least_wait_seconds() == 0


async def test_a_wait_is_not_foretold_while_the_limits_are_learned() -> None:
    """A backlog before a fast server would look long with the first small batches."""
    backend = doubler()
    dispatcher = dispatcher_of(backend, max_batch=512)
    waits: list[float] = []
    backlog = asyncio.create_task(outcomes_of(dispatcher, batch(*range(10_000))))
    while not backlog.done():
        if backend.calls and len(backend.calls[-1]) < 512:
            waits.append(dispatcher.least_wait_seconds())
        await asyncio.sleep(0)
    assert set(waits) == {0.0}


async def test_a_cancelled_caller_affects_no_other_of_its_batch() -> None:
    """While it waits, and during its call."""
    backend = doubler()
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
    assert calls_of(backend) == [[1], [2, 4]]


async def test_no_call_outlives_the_deadlines_of_its_batch() -> None:
    """Its timeout ends with the last deadline of the batch; a caller past its deadline gets no call."""
    backend = doubler()
    dispatcher = dispatcher_of(backend, timeout_seconds=5.0)
    now = asyncio.get_running_loop().time()
    assert await ask(dispatcher, 1, deadline_loop_seconds=now + 1) == [2]
    assert 0 < backend.timeouts_seconds[0] <= 1
    (outcome,) = await ask(dispatcher, 1, deadline_loop_seconds=now - 1)
    assert isinstance(outcome, DeadlineExceededError)
    assert await ask(dispatcher, 1) == [2]
    assert backend.timeouts_seconds[1:] == [5.0]


async def test_a_bad_example_of_one_caller_fails_alone() -> None:
    """The other inputs of its batch get their predictions."""
    backend = doubler({13: BackendFailedError("unlucky")})
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


async def test_a_programming_error_is_raised_in_its_callers() -> None:
    """No caller waits for ever, and the next one gets its predictions."""
    backend = doubler({13: ZeroDivisionError("a fault")})
    dispatcher = dispatcher_of(backend)
    with pytest.raises(ZeroDivisionError):
        await ask(dispatcher, 13)
    assert await ask(dispatcher, 1) == [2]


@pytest.mark.parametrize("error", [BackendUnavailableError("down"), BackendBrokenError("garbage")])
async def test_a_broken_server_is_not_called_and_then_probed(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After failures in a row no call goes; then a probe with one example closes the breaker."""
    backend, meter = doubler({13: error}), RecordingMeter()
    dispatcher = dispatcher_of(backend, meter=meter)
    for _ in range(BREAKER.failures):
        assert [type(outcome) for outcome in await ask(dispatcher, 13)] == [type(error)]
    assert meter.opened == 1
    backend.calls.clear()
    (outcome,) = await ask(dispatcher, 1)
    assert isinstance(outcome, BackendUnavailableError)
    assert str(outcome) == f"the model server is not called for now: {error}"
    assert calls_of(backend) == []

    loop = asyncio.get_running_loop()
    later = loop.time() + BREAKER.open_seconds
    monkeypatch.setattr(loop, "time", lambda: later)
    probe, *others = await outcomes_of(dispatcher, batch(1, 2, 3))
    assert probe == 2
    assert calls_of(backend) == [[1]]
    assert all(isinstance(other, BackendUnavailableError) for other in others)
    assert await outcomes_of(dispatcher, batch(1, 2, 3)) == [2, 4, 6]


@pytest.mark.parametrize(
    "error", [BackendBrokenError("500"), NonFiniteResultError("NaN"), BackendFailedError("400")]
)
async def test_bad_inputs_do_not_take_a_version_from_others(error: Exception) -> None:
    """The server predicts others: one that it predicted before is asked again, where a working one would not fail so."""
    bad = dict.fromkeys(range(-20, 0), error)
    backend, meter = doubler(bad), RecordingMeter()
    dispatcher = dispatcher_of(backend, meter=meter)
    assert await ask(dispatcher, 1) == [2]
    for number in bad:
        (outcome,) = await ask(dispatcher, number)
        assert type(outcome) is type(error)
        assert getattr(outcome, "of_input", False)
    assert await ask(dispatcher, 2) == [4]
    assert meter.opened == 0
    assert len(backend.calls) <= 2 + 2 * len(bad)


async def test_a_server_that_breaks_opens_the_breaker() -> None:
    """It does not predict again what it predicted before; nothing is known of the inputs."""
    bad: dict[int, Exception] = {}
    backend, meter = doubler(bad), RecordingMeter()
    dispatcher = dispatcher_of(backend, meter=meter)
    assert await ask(dispatcher, 1) == [2]
    bad |= dict.fromkeys(range(10), BackendBrokenError("500"))
    outcomes = [outcome for number in range(2, 6) for outcome in await ask(dispatcher, number)]
    assert [type(outcome) for outcome in outcomes] == [BackendBrokenError] * 3 + [BackendUnavailableError]
    assert not any(getattr(outcome, "of_input", False) for outcome in outcomes)
    assert meter.opened == 1


async def test_a_repeated_bad_input_is_answered_without_a_call() -> None:
    """From its second failure; the others of its caller are asked. Without evidence against the input it is asked."""
    backend = doubler({13: BackendFailedError("shape")})
    dispatcher = dispatcher_of(backend)
    digests = [b"12", b"13", b"14"]
    for _ in range(2):
        assert isinstance((await ask(dispatcher, 13, digests=[b"13"]))[0], BackendFailedError)
    assert calls_of(backend) == [[13], [13]]
    for _ in range(3):
        good, bad, other = await ask(dispatcher, 12, 13, 14, digests=digests)
        assert (good, other) == (24, 28)
        assert isinstance(bad, BackendFailedError)
    assert calls_of(backend)[-1] == [12, 14]
    assert await ask(dispatcher, 13, digests=[b"13"]) == [bad]


async def test_a_batch_of_bad_inputs_does_not_fail_the_few_good_ones() -> None:
    """However few they are."""
    bad: dict[int, Exception] = {
        number: BackendBrokenError("500") for number in range(300) if number % 60 != 59
    }
    backend, meter = doubler(bad), RecordingMeter()
    dispatcher = dispatcher_of(backend, meter=meter)
    await ask(dispatcher, *range(1000, 2000))
    outcomes = await ask(dispatcher, *range(300))
    assert {number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)} == bad.keys()
    assert meter.opened == 0


async def test_refused_inputs_do_not_open_the_breaker() -> None:
    """One user's bad inputs do not make the model unavailable to others."""
    backend = doubler({13: BackendFailedError("shape")})
    dispatcher = dispatcher_of(backend)
    for _ in range(3 * BREAKER.failures):
        assert isinstance((await ask(dispatcher, 13))[0], BackendFailedError)
    assert await ask(dispatcher, 1) == [2]


async def test_short_deadlines_do_not_open_the_breaker() -> None:
    """One user's short deadlines do not make the model unavailable to others."""
    backend = doubler()
    dispatcher = dispatcher_of(backend)
    backend.gate.clear()
    loop = asyncio.get_running_loop()
    for _ in range(3 * BREAKER.failures):
        (outcome,) = await ask(dispatcher, 1, deadline_loop_seconds=loop.time() + 0.001)
        assert isinstance(outcome, BackendUnavailableError | DeadlineExceededError)
    backend.gate.set()
    assert await ask(dispatcher, 1) == [2]


async def test_closing_fails_the_waiting_callers() -> None:
    """Both in the queue and in a call; closing is idempotent."""
    backend = doubler()
    dispatcher = dispatcher_of(backend)
    backend.gate.clear()
    callers = [asyncio.create_task(ask(dispatcher, number)) for number in (1, 2)]
    await asyncio.wait_for(backend.called.wait(), DEADLINE_SECONDS)
    await dispatcher.close()
    for caller in callers:
        (outcome,) = await caller
        assert isinstance(outcome, BackendUnavailableError)
    await dispatcher.close()
    assert backend.closed


class Timing(RecordingBackend):
    """Doubles `x`; a batch with more than `largest_in_time` examples, or with 13, takes too long."""

    def __init__(self, largest_in_time: int) -> None:
        super().__init__(lambda value: 2 * value["x"])
        self._largest_in_time = largest_in_time

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        predictions = await super().infer(inputs, timeout_seconds=timeout_seconds)
        if len(inputs) > self._largest_in_time or {"x": 13} in inputs:
            raise BackendTimeoutError("no prediction in time")
        return predictions


async def test_inputs_of_a_batch_that_takes_too_long_are_tried_one_by_one() -> None:
    """No input fails, the next batches are smaller, and the breaker does not count the timeouts."""
    backend, meter = Timing(largest_in_time=3), RecordingMeter()
    dispatcher = dispatcher_of(backend, meter=meter)
    numbers = range(100, 200)
    for _ in range(2 * BREAKER.failures):
        assert await ask(dispatcher, *numbers) == [2 * number for number in numbers]
    assert [len(call) for call in backend.calls[:9]] == [8, 1, 1, 1, 1, 1, 1, 1, 1]
    assert meter.opened == 0


async def test_an_input_that_takes_too_long_fails_alone() -> None:
    """The other inputs of its batch are answered."""
    outcomes = await ask(dispatcher_of(Timing(largest_in_time=100)), *range(40))
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)] == [13]
    assert isinstance(outcomes[13], BackendTimeoutError)


async def test_a_server_that_hangs_opens_the_breaker_by_calls_with_one_example() -> None:
    """Then all waiting inputs fail at once."""
    backend, meter = Timing(largest_in_time=0), RecordingMeter()
    outcomes = await ask(dispatcher_of(backend, meter=meter), *range(40))
    assert all(isinstance(outcome, BackendUnavailableError) for outcome in outcomes)
    assert [len(call) for call in backend.calls] == [8] + [1] * BREAKER.failures
    assert meter.opened == 1


class Sized(RecordingBackend):
    """Doubles `x`; inputs have `size` bytes. A call with more than `most` bytes is refused; an x of 13 always is."""

    def __init__(self, most: int) -> None:
        super().__init__(lambda value: 2 * value["x"])
        self._most = most

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        predictions = await super().infer(inputs, timeout_seconds=timeout_seconds)
        if sum(value["size"] for value in inputs) > self._most or any(value["x"] == 13 for value in inputs):
            raise BackendTooLargeError("413")
        return predictions


async def ask_sized(dispatcher: Dispatcher, sizes: dict[int, int]) -> list[Any]:
    inputs = [{"x": number, "size": size} for number, size in sizes.items()]
    return await asyncio.wait_for(
        outcomes_of(dispatcher, inputs, sizes_bytes=list(sizes.values())), DEADLINE_SECONDS
    )


async def test_no_call_has_more_bytes_than_the_limit() -> None:
    """One input that is larger goes alone."""
    backend = Sized(most=10 * MAX_BYTES)
    sizes = dict(enumerate([MAX_BYTES // 4] * 9 + [2 * MAX_BYTES] + [1] * 5, start=100))
    assert await ask_sized(dispatcher_of(backend), sizes) == [2 * number for number in sizes]
    assert [len(call) for call in backend.calls] == [4, 4, 1, 1, 5]


async def test_a_batch_that_is_too_large_is_tried_again_in_smaller_ones() -> None:
    """No input fails, the size is remembered, and the breaker does not count it."""
    backend, meter = Sized(most=3000), RecordingMeter()
    dispatcher = dispatcher_of(backend, meter=meter)
    for _ in range(2 * BREAKER.failures):
        sizes = dict.fromkeys(range(100, 200), 1000)
        assert await ask_sized(dispatcher, sizes) == [2 * number for number in sizes]
    refused = [len(call) for call in backend.calls if sum(value["size"] for value in call) > 3000]
    assert refused == [8, 4]
    assert meter.opened == 0


async def test_an_input_that_is_too_large_fails_alone() -> None:
    """Then batches are as large as before."""
    backend = Sized(most=10**9)
    dispatcher = dispatcher_of(backend)
    # Batches grow first.
    await ask_sized(dispatcher, dict.fromkeys(range(1000, 2000), 10))
    backend.calls.clear()
    outcomes = await ask_sized(dispatcher, dict.fromkeys(range(100), 10))
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)] == [13]
    assert isinstance(outcomes[13], BackendTooLargeError)
    assert len(backend.calls) < 20
    backend.calls.clear()
    await ask_sized(dispatcher, dict.fromkeys(range(1000, 1100), 10))
    assert [len(call) for call in backend.calls] == [100]


async def test_an_input_past_its_deadline_is_not_tried_again() -> None:
    """Its outcome is the timeout."""
    backend = doubler()
    backend.gate.clear()
    now = asyncio.get_running_loop().time()
    outcomes = await ask(dispatcher_of(backend), 1, 2, 3, deadline_loop_seconds=now + 0.01)
    assert [type(outcome) for outcome in outcomes] == [BackendTimeoutError] * 3
    assert calls_of(backend) == [[1, 2, 3]]


async def test_closing_settles_a_call_that_has_not_begun() -> None:
    """Its task is cancelled before its first step."""
    backend = doubler()
    dispatcher = dispatcher_of(backend)
    caller = asyncio.create_task(ask(dispatcher, 1))
    while not dispatcher._calls:  # noqa: ASYNC110  # by turns of the loop: in the next one the call would begin
        await asyncio.sleep(0)
    await dispatcher.close()
    assert calls_of(backend) == []
    (outcome,) = await asyncio.wait_for(caller, DEADLINE_SECONDS)
    assert isinstance(outcome, BackendUnavailableError)


async def test_a_closed_dispatcher_tries_nothing_again() -> None:
    """A batch that times out while the dispatcher closes gets its outcome."""

    class Stuck(RecordingBackend):
        """Times out when its call is cancelled."""

        async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
            try:
                return await super().infer(inputs, timeout_seconds=timeout_seconds)
            except asyncio.CancelledError:
                raise BackendTimeoutError("stuck") from None

    backend = Stuck()
    backend.gate.clear()
    dispatcher = dispatcher_of(backend)
    caller = asyncio.create_task(ask(dispatcher, 1, 2))
    await asyncio.wait_for(backend.called.wait(), DEADLINE_SECONDS)
    await dispatcher.close()
    assert [type(outcome) for outcome in await caller] == [BackendTimeoutError] * 2
    assert calls_of(backend) == [[1, 2]]


async def test_examples_beyond_the_budget_of_isolation_get_a_call_of_their_own() -> None:
    """Only the bad examples fail, however many there are."""
    bad: dict[int, Exception] = {number: BackendFailedError("shape") for number in range(0, 3000, 16)}
    dispatcher = dispatcher_of(doubler(bad), max_batch=4096)
    # Batches grow first.
    await ask(dispatcher, *range(10_001, 20_000))
    outcomes = await ask(dispatcher, *range(3000))
    assert {number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)} == bad.keys()


async def test_results_that_are_not_json_count_neither_for_the_breaker_nor_against_the_batch() -> None:
    """Batches grow as they do without them."""
    backend, meter = RecordingBackend(lambda _: NonFiniteResultError("NaN")), RecordingMeter()
    dispatcher = dispatcher_of(backend, meter=meter)
    for _ in range(3 * BREAKER.failures):
        outcomes = await ask(dispatcher, *range(300))
        assert all(isinstance(outcome, NonFiniteResultError) for outcome in outcomes)
    assert meter.opened == 0
    assert max(len(call) for call in backend.calls) == 100

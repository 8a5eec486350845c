"""What every backend promises (`workers/backends/port.py`), on each server that it is for, with the same models."""

import asyncio
import random
from collections.abc import Callable

import pytest

from schemas.errors import ArtifactError, BackendFailedError, BackendUnavailableError
from schemas.events import JsonObject
from schemas.json_schema import compile_schema
from tests.servers.kinds import KServe
from tests.servers.launching import Api
from tests.servers.models.toys import FAULT, SLOW
from tests.servers.served import WAYS, Served, Way
from tests.support.deadline import DEADLINE_SECONDS, wait_until
from workers.backends.open_inference import OpenInferenceBackend
from workers.backends.port import Backend
from workers.calls.isolate import infer_each

_NO_VERSIONS = Way(KServe, Api.OPEN_INFERENCE)
_OPEN_INFERENCE = [way for way in WAYS if way.api is Api.OPEN_INFERENCE]
_WITH_AN_OLDER_VERSION = [way for way in WAYS if way.kind.older_version is not None]


@pytest.mark.parametrize("count", [1, 2, 100, 1000])
async def test_as_many_predictions_as_inputs_in_order(served: Served, count: int) -> None:
    """Whatever the size of the batch."""
    backend = await served.warm_backend()
    numbers = random.Random(count).choices(range(-500, 500), k=count)
    assert await backend.infer(served.examples(numbers), timeout_seconds=DEADLINE_SECONDS) == served.doubled(
        numbers
    )


async def test_many_batches_at_once(served: Served) -> None:
    """Batches in flight together get their own predictions, whatever the server makes of them."""
    backend = await served.warm_backend()
    batches = [list(range(first, first + 20)) for first in range(40)]
    answers = await asyncio.gather(
        *(backend.infer(served.examples(numbers), timeout_seconds=DEADLINE_SECONDS) for numbers in batches)
    )
    assert answers == [served.doubled(numbers) for numbers in batches]


async def test_several_outputs(served: Served) -> None:
    """A prediction with several outputs has them by name."""
    backend = await served.warm_backend("recommender")
    users = list(range(40))
    assert await backend.infer(served.users(users), timeout_seconds=DEADLINE_SECONDS) == served.recommended(
        users
    )


@pytest.mark.parametrize("bad", [FAULT, "no number"], ids=["fault", "type"])
async def test_isolated_a_bad_example_fails_alone(served: Served, bad: int) -> None:
    """One that makes the model raise and one that is no number; all others are answered."""
    backend = await served.warm_backend()
    numbers: list[int] = [*range(30), bad, *range(30, 40)]
    outcomes = await infer_each(backend, served.examples(numbers), timeout_seconds=DEADLINE_SECONDS)
    assert isinstance(outcomes.pop(30), BackendFailedError)
    assert outcomes == served.doubled(range(40))


async def test_the_call_after_a_fault_is_answered(served: Served) -> None:
    """On the same connection, which some servers close after a fault without saying so."""
    backend = served.backend(calls_in_flight=1)
    await backend.warm()
    for number in range(5):
        with pytest.raises(BackendFailedError):
            await backend.infer([served.example(FAULT)], timeout_seconds=DEADLINE_SECONDS)
        assert await backend.infer(
            [served.example(number)], timeout_seconds=DEADLINE_SECONDS
        ) == served.doubled([number])


async def test_what_the_server_says_is_told_in_a_few_words(served: Served) -> None:
    """Its status and how its text begins, which at some is a traceback."""
    backend = await served.warm_backend()
    with pytest.raises(BackendFailedError, match=r"answered 50[03]: ..") as failure:
        await backend.infer([served.example(FAULT)], timeout_seconds=DEADLINE_SECONDS)
    assert len(str(failure.value)) < 300


async def test_an_unknown_model_is_refused_when_it_is_loaded(served: Served) -> None:
    """An operator hears of it before anybody is served."""
    with pytest.raises(ArtifactError, match=r"answered 404: .*(not found|not exist)"):
        await served.backend("nothing").warm()


@pytest.mark.parametrize("served", _OPEN_INFERENCE, ids=str, indirect=True)
async def test_what_a_model_says_of_itself(served: Served) -> None:
    """Its inputs and predictions fit the schemas that follow from the server's metadata."""
    backend = await served.warm_backend("recommender")
    assert isinstance(backend, OpenInferenceBackend)
    description = await backend.describe()
    assert description is not None
    takes, gives = compile_schema(description.input_schema()), compile_schema(description.output_schema())
    (user,), (recommended,) = served.users([3]), served.recommended([3])
    assert takes.is_valid(user)
    assert not takes.is_valid({"user_idx": "no number"})
    assert gives.is_valid(recommended)
    # MLServer describes what its settings name, here the inputs.
    assert gives.is_valid({}) == (served.server.requirements == "mlserver")


@pytest.mark.parametrize("served", _WITH_AN_OLDER_VERSION, ids=str, indirect=True)
async def test_an_older_version(served: Served) -> None:
    """It is asked for by the endpoint; without a version the server takes its own."""
    older = await served.warm_backend(version=served.server.older_version)
    assert await older.infer([served.example(3)], timeout_seconds=DEADLINE_SECONDS) == served.doubled([6])
    own = await served.warm_backend(version=served.server.own_version)
    assert await own.infer([served.example(3)], timeout_seconds=DEADLINE_SECONDS) == served.doubled([3])


@pytest.mark.parametrize("served", [way for way in WAYS if way != _NO_VERSIONS], ids=str, indirect=True)
async def test_an_unknown_version_is_refused_when_it_is_loaded(served: Served) -> None:
    """As an unknown model is."""
    with pytest.raises(ArtifactError, match="answered 404"):
        await served.backend(version="99").warm()


@pytest.mark.parametrize("served", [_NO_VERSIONS], ids=str, indirect=True)
async def test_a_server_that_has_no_versions(served: Served) -> None:
    """It answers 501, as servers without metadata do: the error comes with the first prediction."""
    backend = await served.warm_backend(version="1")
    with pytest.raises(BackendFailedError, match="answered 501: Model versioning not supported"):
        await backend.infer([served.example(1)], timeout_seconds=DEADLINE_SECONDS)


async def test_the_timeout_is_kept(served: Served) -> None:
    """A call that takes too long ends by its timeout, and the next one is answered."""
    backend = await served.warm_backend()
    with pytest.raises(BackendUnavailableError, match=r"within 0\.3 s"):
        await backend.infer([served.example(SLOW)], timeout_seconds=0.3)
    assert await backend.infer([served.example(1)], timeout_seconds=DEADLINE_SECONDS) == served.doubled([1])


async def test_a_server_that_hangs_keeps_nobody(served: Served) -> None:
    """Its processes are stopped, its connections stay open; awake again, it answers."""
    backend = await served.warm_backend()
    served.server.pause()
    try:
        with pytest.raises(BackendUnavailableError, match=r"within 0\.3 s"):
            await backend.infer([served.example(1)], timeout_seconds=0.3)
    finally:
        served.server.resume()
    assert await backend.infer([served.example(1)], timeout_seconds=DEADLINE_SECONDS) == served.doubled([1])


async def test_a_cancelled_call_hurts_nobody(served: Served) -> None:
    """Neither those that are in flight with it nor those that follow."""
    backend = await served.warm_backend()
    begun = served.server.slow_calls.stat().st_size
    slow = asyncio.create_task(backend.infer([served.example(SLOW)], timeout_seconds=DEADLINE_SECONDS))
    await until(lambda: served.server.slow_calls.stat().st_size > begun)
    others = [
        asyncio.create_task(backend.infer([served.example(number)], timeout_seconds=DEADLINE_SECONDS))
        for number in range(10)
    ]
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert await asyncio.gather(*others) == [served.doubled([number]) for number in range(10)]
    assert await backend.infer([served.example(1)], timeout_seconds=DEADLINE_SECONDS) == served.doubled([1])


async def test_a_server_that_is_killed_and_comes_back(served: Served) -> None:
    """Under load: calls fail as unavailable meanwhile, and predictions come again without our doing."""
    backend = await served.warm_backend()
    load = Load(backend, served)
    try:
        await until(lambda: load.answered > 20)
        family = served.server._family()
        await asyncio.to_thread(served.server.kill)
        assert not [process for process in family if process.is_running()]
        await until(lambda: len(load.failures) > 20)
        # Here, since its life is tied to the thread that starts it.
        served.server.launch()
        await asyncio.to_thread(served.server.wait_until_ready)
        before = load.answered
        await until(lambda: load.answered > before + 20)
    finally:
        await load.end()
    broken_off = [failure for failure in load.failures if not isinstance(failure, BackendUnavailableError)]
    # Killed between the head and the body of an answer.
    assert all("broke off its response" in str(failure) for failure in broken_off), broken_off
    assert len(broken_off) <= load.callers
    assert load.wrong == []


class Load:
    """Callers that ask without pause until `end`; what becomes of their calls."""

    callers = 4

    def __init__(self, backend: Backend, served: Served) -> None:
        self.answered = 0
        self.failures: list[BackendUnavailableError | BackendFailedError] = []
        self.wrong: list[object] = []
        self._backend = backend
        self._served = served
        self._tasks = [asyncio.create_task(self._call(first)) for first in range(self.callers)]

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _call(self, first: int) -> None:
        numbers = list(range(first, first + 5))
        inputs: list[JsonObject] = self._served.examples(numbers)
        while True:
            try:
                predictions = await self._backend.infer(inputs, timeout_seconds=2)
            except (BackendUnavailableError, BackendFailedError) as failure:
                self.failures.append(failure)
                # A refused connection fails at once, and a server that starts needs the processor.
                await asyncio.sleep(0.05)
            else:
                self.answered += 1
                if predictions != self._served.doubled(numbers):
                    self.wrong.append(predictions)


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition that no signal reports."""

    async def holds() -> bool:
        return condition()

    await wait_until(holds, "what the server does")

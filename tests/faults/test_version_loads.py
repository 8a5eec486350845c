"""A version whose first call never ends, or whose load ends the process: the others are served all the same."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.events import ErrorCode
from streams.config.settings import Settings
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.onnx_files import save_endless
from tests.support.models.served_model import apply, predictions_of, serve_model
from tests.support.promotions.events import event, publish
from tests.support.stack.command import headrace
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, Asking, asking
from tests.support.worker.process import StartWorker

# No test waits so long.
FOR_EVER = 100 * DEADLINE_SECONDS
# Half of them have the canary.
USERS = [f"u{number}" for number in range(40)]


class Endless:
    """A model with v1 and a canary v2 whose first call never ends, and another model."""

    def __init__(self, settings: Settings, model: str, other: str) -> None:
        self._settings = settings
        self.model = model
        self.other = other

    def settings(self, **fields: Any) -> Settings:
        return self._settings.model_copy(update=fields)

    async def ask(self, asked: Asking) -> Sequence[str]:
        """Ask for predictions of both models; the messages of the errors that v2's users get."""
        answers = await asked.ask(self.other, range(len(USERS)), users=USERS)
        answers += await asked.ask(self.model, range(len(USERS)), users=USERS)
        messages = []
        for x, answer in enumerate(answers):
            if answer.error is None:
                assert answer.predictions == predictions_of("v1", x % len(USERS))
            else:
                assert (answer.model_name, answer.model_version) == (self.model, "v2")
                assert answer.error.code == ErrorCode.BACKEND_UNAVAILABLE
                messages.append(answer.error.message)
        assert len(messages) < len(USERS), "v1's users are answered"
        return messages


@pytest.fixture
async def endless(topics: MakeTopics, database: str, tmp_path: Path) -> Endless:
    settings = await topics(PARTITIONS, postgres_dsn=database, worker_name="w")
    model, other = [await serve_model(database, tmp_path) for _ in range(2)]
    path = save_endless(tmp_path / "endless.onnx")
    spec = {
        "version": "v2",
        "framework": "onnx",
        "artifact_uri": path.as_uri(),
        "artifact_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "input_schema": {},
        "output_schema": {},
    }
    canary = event("canary", model, version="v2", weight=50)
    await apply(database, event("register", model, model=spec), canary)
    return Endless(settings, model, other)


async def test_a_start_does_not_wait_for_a_first_call_that_never_ends(
    endless: Endless, start_worker: StartWorker
) -> None:
    """The others are served, a rollback by the topic ends the call, and SIGTERM is an orderly end."""
    settings = endless.settings(load_timeout_seconds=FOR_EVER, start_wait_seconds=0.1)
    control, worker = start_worker(settings, "control"), start_worker(settings)
    await worker.ready()
    assert (await worker.logged("versions are still being loaded"))["models"] == [endless.model]
    async with asking(settings) as asked:
        messages = await endless.ask(asked)
        assert messages
        assert all(message.endswith("v2 is being loaded by this worker") for message in messages)
        swapped = worker.logged_again("serving table swapped")
        await publish(settings, event("rollback", endless.model))
        assert (await control.logged("promotion decided"))["status"] == "applied"
        await swapped
        assert await endless.ask(asked) == []
    worker.terminate()
    assert await worker.ended() == 0


async def test_a_running_worker_ends_a_load_at_its_limit(endless: Endless, start_worker: StartWorker) -> None:
    """The version is tried again, less and less often."""
    worker = start_worker(endless.settings(load_timeout_seconds=0.5))
    failed = await worker.logged("version not loaded")
    assert failed["reason"].startswith("the model is not ready for its first call within 0.5 s")
    async with asking(endless.settings()) as asked:
        for message in await endless.ask(asked):
            assert message.endswith("v2 is not loaded on this worker; its log says why")
    failed = await worker.logged("version not loaded", times=3)
    assert failed["reason"].startswith(
        "2 loads of it ended the process or took too long; it is tried again in"
    )
    worker.terminate()
    assert await worker.ended() == 0


async def test_an_end_during_the_start_is_orderly(endless: Endless, start_worker: StartWorker) -> None:
    """The worker joins no group before it ends."""
    worker = start_worker(
        endless.settings(load_timeout_seconds=FOR_EVER, start_wait_seconds=FOR_EVER), "predict"
    )
    # With the other model, whose load has ended.
    await worker.logged("serving table swapped")
    worker.terminate()
    assert await worker.ended() == 0
    assert worker.count("predict role started") == 0


async def test_what_ended_the_process_is_loaded_after_the_others(
    endless: Endless, start_worker: StartWorker
) -> None:
    """The next life serves them first, and the operator sees why a version is missing."""
    settings = endless.settings(load_timeout_seconds=FOR_EVER, start_wait_seconds=0.1)
    first = start_worker(settings)
    await first.logged("versions are still being loaded")
    first.kill()
    await first.ended()
    # It would wait for a load.
    second = start_worker(settings.model_copy(update={"start_wait_seconds": FOR_EVER}))
    await second.ready()
    failed = await second.logged("version not loaded")
    assert (
        failed["reason"] == "1 load of it ended the process or took too long; it is loaded after the others"
    )
    async with asking(settings) as asked:
        await endless.ask(asked)
    status = await headrace("status", endless.model, settings=settings)
    # The heartbeat of the first life may be there still.
    not_yet = [line for line in status.stdout.splitlines() if line.startswith("not yet by w")]
    assert any("v2 cannot be loaded: 1 load of it ended the process" in line for line in not_yet)
    second.terminate()
    assert await second.ended() == 0

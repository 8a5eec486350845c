"""Workers of one group, the model that they serve, and the traffic to it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from streams.config.settings import Settings
from tests.support.kafka.topic_log import uncommitted_requests
from tests.support.worker.process import StartWorker, WorkerProcess
from tests.support.worker.traffic import PARTITIONS, Traffic, steady_traffic


class WorkerGroup:
    """Has no workers until `start`."""

    def __init__(self, settings: Settings, model: str, start_worker: StartWorker) -> None:
        self.settings = settings
        self.model = model
        self._start_worker = start_worker

    async def start(self, *names: str) -> list[WorkerProcess]:
        """Start workers at once and wait until they serve."""
        workers = [
            self._start_worker(self.settings.model_copy(update={"worker_name": name}), "predict")
            for name in names
        ]
        await asyncio.gather(*(worker.ready() for worker in workers))
        return workers

    def traffic(self, **fields: Any) -> AbstractAsyncContextManager[Traffic]:
        return steady_traffic(self.settings, self.model, **fields)

    async def end(self, *workers: WorkerProcess) -> None:
        """End the last workers in order; then every request has been committed."""
        for worker in workers:
            worker.terminate()
        for worker in workers:
            assert await worker.ended() == 0
        assert await uncommitted_requests(self.settings, PARTITIONS) == 0


MakeGroup = Callable[..., Awaitable[WorkerGroup]]

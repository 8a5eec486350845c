"""The two control workers of the benchmark: find the one that decides, and replace one that was killed."""

import asyncio
from collections.abc import Callable

from streams.clients.promotion_client import PromotionClient
from streams.config.settings import Settings
from streams.kafka.topics import administration
from tests.support.promotions.events import event

from .answers import WrongAnswerError
from .rollback_processes import WorkerProcess
from .workload import MODEL_NAME

CONTROL_WORKERS = 2
_SETTLE_SECONDS = 60.0
_LOOK_SECONDS = 0.1

StartWorker = Callable[[str, Settings], WorkerProcess]
"""Start one with a role and settings."""


class Controls:
    """Two control workers, one of which decides; workers that start later get the current `settings`."""

    def __init__(self, settings: Settings, start_worker: StartWorker) -> None:
        self.settings = settings
        self._start_worker = start_worker
        self._workers: list[WorkerProcess] = []

    async def start(self) -> None:
        """Start the missing workers, and wait until both are members of the group."""
        missing = CONTROL_WORKERS - len(self._workers)
        started = [self._start_worker("control", self.settings) for _ in range(missing)]
        self._workers += started
        await asyncio.gather(*(worker.logged("worker ready") for worker in started))
        await self._settled()

    async def deciding(self, client: PromotionClient) -> WorkerProcess:
        """The one that decides, found by an event that is refused."""
        async with asyncio.timeout(_SETTLE_SECONDS):
            while True:
                probe = event("rollback", MODEL_NAME, version="nowhere")
                decided = await client.decide(probe)
                if decided.result.status != "rejected":
                    raise WrongAnswerError(f"a rollback to a version that is not there is {decided.result}")
                for worker in self._workers:
                    if decided.via == "kafka" and worker.count("promotion decided", event_id=probe.event_id):
                        return worker

    async def replace(self, dead: WorkerProcess) -> None:
        """Start a worker in place of one that was killed; return when the group has rebalanced."""
        self._workers.remove(dead)
        await self.start()

    async def end(self) -> None:
        """End both in order."""
        for worker in self._workers:
            await asyncio.to_thread(worker.end)
        self._workers.clear()

    async def _settled(self) -> None:
        """Wait until the group has these members and no other, and topic and members are matched."""
        group_id = self.settings.control_group_id
        async with asyncio.timeout(_SETTLE_SECONDS), administration(self.settings) as admin:
            coordinator = await admin.find_coordinator(group_id)
            while True:
                (described,) = await admin.describe_consumer_groups([group_id], coordinator)
                ((_, _, state, _, _, members, *_),) = described.groups
                if state == "Stable" and len(members) == len(self._workers):
                    return
                await asyncio.sleep(_LOOK_SECONDS)

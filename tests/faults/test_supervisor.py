"""`headrace worker --processes N`: one of them dies, all of them drain, and none outlives its supervisor."""

import os
import select

import httpx
import psutil

from tests.support.deadline import DEADLINE_SECONDS
from tests.support.kafka.topic_log import uncommitted_requests
from tests.support.worker.group import MakeGroup
from tests.support.worker.http_pages import readiness, until_ready
from tests.support.worker.process import StartWorker, WorkerProcess
from tests.support.worker.traffic import PARTITIONS


async def test_one_dies_and_is_started_again(make_group: MakeGroup, start_worker: StartWorker) -> None:
    """Every request is answered meanwhile, and all drain in the end."""
    workers = await make_group()
    settings = workers.settings.model_copy(update={"worker_name": "w", "http_port": 0})
    supervisor = start_worker(settings, "predict", processes=2)
    port = (await supervisor.logged("http served"))["port"]
    await until_ready(port)
    async with workers.traffic() as traffic:
        await traffic.until_served_by("w-1", "w-2")
        psutil.Process(await pid_of(supervisor, "w-1")).kill()
        ended = await supervisor.logged("worker exited")
        assert (ended["worker"], ended["exit_code"]) == ("w-1", -9)
        assert not (await readiness(port))["conditions"]["w-1"]
        await supervisor.logged("worker started", times=3)
        await until_ready(port)
        await traffic.until_served_by("w-1", "w-2")
        await traffic.end()
        async with httpx.AsyncClient(trust_env=False) as client:
            page = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        infos = [line for line in page.splitlines() if line.startswith("headrace_worker_info{")]
        assert [line.partition(",")[0] for line in infos] == [
            'headrace_worker_info{process="w-1"',
            'headrace_worker_info{process="w-2"',
        ]
    supervisor.terminate()
    assert await supervisor.ended() == 0
    assert await uncommitted_requests(settings, PARTITIONS) == 0


async def test_none_outlives_its_supervisor(make_group: MakeGroup, start_worker: StartWorker) -> None:
    """The supervisor is killed; its workers end."""
    workers = await make_group()
    settings = workers.settings.model_copy(update={"worker_name": "w", "http_port": 0})
    supervisor = start_worker(settings, "predict", processes=2)
    await until_ready((await supervisor.logged("http served"))["port"])
    # A descriptor that is readable once the process has ended, also before it is reaped.
    ends = [os.pidfd_open(await pid_of(supervisor, name)) for name in ("w-1", "w-2")]
    supervisor.kill()
    try:
        for end in ends:
            assert select.select([end], [], [], DEADLINE_SECONDS)[0]
    finally:
        for end in ends:
            os.close(end)


async def test_workers_that_cannot_start_are_not_started_again(
    make_group: MakeGroup, start_worker: StartWorker
) -> None:
    """As with one: the exit code and the message say what is wrong."""
    workers = await make_group()
    settings = workers.settings.model_copy(update={"topic_requests": "nobody-made-me"})
    supervisor = start_worker(settings, "predict", processes=2)
    assert await supervisor.ended() == 1
    assert "nobody-made-me" in supervisor.log


async def pid_of(supervisor: WorkerProcess, name: str) -> int:
    """Of the process that was started first with this name."""
    for times in (1, 2):
        started = await supervisor.logged("worker started", times=times)
        if started["worker"] == name:
            return int(started["pid"])
    raise AssertionError(f"no {name} was started")

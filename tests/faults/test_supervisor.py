"""`headrace worker` with several processes: one ends and the others go on, all drain, none outlives its supervisor."""

import itertools
import os
import select
from pathlib import Path

import psutil
from aiokafka.admin import NewTopic

from streams.clients.predict_client import PredictClient
from streams.clients.promotion_client import PromotionClient
from streams.kafka.topics import administration
from streams.worker import EXIT_FAULT
from tests.support.deadline import DEADLINE_SECONDS, wait_until
from tests.support.kafka.topic_log import uncommitted_requests
from tests.support.models.served_model import serve_model
from tests.support.promotions.events import event, spec
from tests.support.stack.services import MakeTopics
from tests.support.worker.group import MakeGroup
from tests.support.worker.http_pages import readiness, scraped, until_ready
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
        psutil.Process(await pid_of(supervisor, "predict-1")).kill()
        ended = await supervisor.logged("process exited")
        assert (ended["process"], ended["exit_code"]) == ("predict-1", -9)
        assert not (await readiness(port))["conditions"]["predict-1"]
        await supervisor.logged("process started", times=3)
        await until_ready(port)
        await traffic.until_served_by("w-1", "w-2")
        await traffic.end()
        page = await scraped(f"http://127.0.0.1:{port}")
        assert page.total("headrace_worker_info", process="predict-1", worker="w-1", role="predict") == 1
        assert page.total("headrace_worker_info", process="predict-2", worker="w-2", role="predict") == 1
        assert page.value("headrace_process_exits_total", process="predict-1") == 1
        assert page.value("headrace_process_exits_total", process="predict-2") == 0
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
    ends = [os.pidfd_open(await pid_of(supervisor, name)) for name in ("predict-1", "predict-2")]
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


async def test_a_role_that_cannot_work_ends_no_other_role(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """The monitor ends again and again and is seen to; predictions and promotions go on. Once mended, it works."""
    model = await serve_model(database, tmp_path, canary_percent=20)
    settings = await topics(1, postgres_dsn=database, http_port=0, artifact_dir=str(tmp_path / "artifacts"))
    async with administration(settings) as admin:
        await admin.delete_topics([settings.topic_alerts])
    supervisor = start_worker(settings, "predict,control,monitor")
    port = (await supervisor.logged("http served"))["port"]
    for times in (1, 2, 3):
        ended = await supervisor.logged("process exited", times=times)
        assert (ended["process"], ended["exit_code"]) == ("monitor", EXIT_FAULT)
    async with PredictClient(settings) as client, PromotionClient(settings) as promotions:
        assert (await client.predict(model, user_id="u", input={"x": 5})).error is None
        decided = await promotions.decide(event("promote", model, version="v2"))
        assert decided.result.status == "applied"
        versions = (f"x{number}" for number in itertools.count())

        async def decided_by_the_control_worker() -> bool:
            one = await promotions.decide(event("register", model, model=spec(next(versions))))
            return one.via == "kafka"

        # A busy machine takes longer than the client waits for Kafka.
        await wait_until(decided_by_the_control_worker, "a decision by Kafka")
        shown = await readiness(port)
        assert shown == {"ready": False, "conditions": {"predict": True, "control": True, "monitor": False}}
        page = await scraped(f"http://127.0.0.1:{port}")
        assert page.value("headrace_process_exits_total", process="monitor") >= 3
        assert page.total("headrace_process_exits_total") == supervisor.count("process exited")

        psutil.Process(await pid_of(supervisor, "control")).kill()
        assert (await client.predict(model, user_id="u", input={"x": 6})).error is None
        async with administration(settings) as admin:
            await admin.create_topics([NewTopic(settings.topic_alerts, 1, 1)])
        await supervisor.logged("all processes ready")
        decided = await promotions.decide(event("rollback", model))
        assert decided.result.status == "applied"
    supervisor.terminate()
    assert await supervisor.ended() == 0


async def pid_of(supervisor: WorkerProcess, name: str) -> int:
    """Of the process that was started first with this name."""
    for times in (1, 2, 3):
        started = await supervisor.logged("process started", times=times)
        if started["process"] == name:
            return int(started["pid"])
    raise AssertionError(f"no {name} was started")

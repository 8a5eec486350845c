"""The composed system as its clients have it: models ship and come back, and what breaks loses nothing."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx
import orjson

from deploy.local.service import HOST
from tests.containers.composed import WORKERS, Composed
from tests.containers.docker import docker, inspect
from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import predictions_of, spec_of
from tests.support.stack.command import headrace
from tests.support.worker.traffic import Traffic, steady_traffic

SERVICES = ("kafka", "postgres", "redis")
# Two turns of a scrape each 15 s.
SCRAPED_SECONDS = 60.0


async def command(composed: Composed, *arguments: str) -> Any:
    """Run `headrace` beside the containers; what it says to programs."""
    ended = await headrace(*arguments, "--json", settings=composed.settings)
    assert ended.code == 0, ended.stderr
    return ended.documents[-1]


async def register(composed: Composed, model: str, version: str) -> None:
    folder = composed.models / model
    folder.mkdir(exist_ok=True)
    spec = spec_of(folder, version, artifact_uri=f"file:///models/{model}/{version}.onnx")
    description = folder / f"{version}.json"
    description.write_bytes(orjson.dumps({"model_name": model, "model": spec}))
    # Its file is in the containers only, so it cannot be tried here.
    await command(composed, "register", "--file", str(description), "--force")


async def ship(composed: Composed) -> str:
    """A model whose v1 takes all traffic, on every worker; its name."""
    model = f"m-{uuid.uuid4().hex[:8]}"
    await register(composed, model, "v1")
    await command(composed, "promote", model, "v1", "--force", "--wait")
    return model


@asynccontextmanager
async def traffic_to(composed: Composed, model: str) -> AsyncIterator[Traffic]:
    """Steady traffic to a model that is answered on every partition."""
    async with steady_traffic(composed.settings, model) as traffic:
        await traffic.until_answered()
        yield traffic


def only(version: str) -> Any:
    return lambda response: response.model_version == version


async def test_a_version_ships_and_comes_back(composed: Composed) -> None:
    """Canary, promotion and rollback under traffic; each command returns when every worker follows."""
    model = await ship(composed)
    await register(composed, model, "v2")
    async with traffic_to(composed, model) as traffic:
        applied = await command(composed, "canary", model, "v2", "20", "--force", "--wait")
        assert applied["status"] == "applied"
        await traffic.until_answered(only("v2"), "of the canary")
        await traffic.until_answered(only("v1"), "of production")
        await command(composed, "promote", model, "v2", "--wait")
        promoted = len(traffic.sent)
        await traffic.until_answered()
        await command(composed, "rollback", model, "--wait")
        rolled_back = len(traffic.sent)
        await traffic.until_answered()
        # Checks every answer against what its version says.
        assert await traffic.end() == 0
        assert {traffic.version(at) for at in range(rolled_back, len(traffic.sent))} == {"v1"}
        assert "v2" in {traffic.version(at) for at in range(promoted, rolled_back)}
    history = await headrace("history", model, "--json", settings=composed.settings)
    assert history.stdout.count('"rollback"') == 1


async def test_a_client_predicts_on_the_command_line(composed: Composed) -> None:
    """One request, one answer, from this machine and from within."""
    model = await ship(composed)
    asked = ("predict", model, "--user", "u1", "--input", '{"x": 4}')
    outside = await headrace(*asked, settings=composed.settings)
    assert orjson.loads(outside.stdout) == predictions_of("v1", 4)
    inside = await asyncio.to_thread(docker, "exec", composed.container("control"), "headrace", *asked)
    assert orjson.loads(inside) == predictions_of("v1", 4)


async def test_the_live_page_and_metrics_are_published(composed: Composed) -> None:
    """On loopback: the page, and what Prometheus reads."""
    async with httpx.AsyncClient(base_url=f"http://localhost:{composed.ports['HEADRACE_PORT']}") as client:
        page = await client.get("/")
        metrics = await client.get("/metrics")
    assert page.headers["content-type"].startswith("text/html")
    assert "headrace_" in metrics.text
    bindings = inspect(composed.container("monitor"))["NetworkSettings"]["Ports"]["8080/tcp"]
    assert {binding["HostIp"] for binding in bindings} == {HOST}


def test_prometheus_scrapes_all_of_it(composed: Composed) -> None:
    """Of the profile `dashboards`: every worker is scraped, and the rules are loaded."""
    composed.compose("--profile", "dashboards", "up", "--detach", "prometheus")
    composed.healthy("prometheus")
    deadline = time.monotonic() + SCRAPED_SECONDS
    with httpx.Client(base_url=f"http://{HOST}:{composed.ports['PROMETHEUS_PORT']}/api/v1") as prometheus:
        while set((scraped := health_of_targets(prometheus)).values()) != {"up"}:
            assert time.monotonic() < deadline, scraped
            time.sleep(0.5)
        assert set(scraped) == {f"{name}:8080" for name in WORKERS}
        assert prometheus.get("/rules").json()["data"]["groups"]
    composed.compose("rm", "--stop", "--force", "prometheus")


def health_of_targets(prometheus: httpx.Client) -> dict[str, str]:
    targets = prometheus.get("/targets").json()["data"]["activeTargets"]
    return {target["labels"]["instance"]: target["health"] for target in targets}


async def test_a_worker_is_killed(composed: Composed) -> None:
    """After kill -9 the other one answers for both, and started again it takes its part."""
    model = await ship(composed)
    async with traffic_to(composed, model) as traffic:
        await traffic.until_served_by("predict-1", "predict-2")
        await asyncio.to_thread(docker, "kill", "--signal=KILL", composed.container("predict-1"))
        await traffic.until_answered()
        await asyncio.to_thread(composed.up)
        await traffic.until_served_by("predict-1", "predict-2")
        await traffic.end()


async def test_redis_hangs(composed: Composed) -> None:
    """Answers continue without the cache."""
    model = await ship(composed)
    redis = composed.container("redis")
    async with traffic_to(composed, model) as traffic:
        await asyncio.to_thread(docker, "pause", redis)
        try:
            for _ in range(3):
                await traffic.until_answered()
        finally:
            await asyncio.to_thread(docker, "unpause", redis)
        await traffic.until_answered()
        assert await traffic.end() == 0


async def test_kafka_restarts(composed: Composed) -> None:
    """All goes on when it is back; what was sent meanwhile is answered then."""
    model = await ship(composed)
    async with traffic_to(composed, model) as traffic:
        await asyncio.to_thread(docker, "restart", "--time=30", composed.container("kafka"))
        await traffic.end()
    # A worker whose responses waited for longer than its producer does has ended, and was started again.
    await asyncio.to_thread(composed.healthy, "kafka", *WORKERS)
    async with traffic_to(composed, await ship(composed)) as traffic:
        await traffic.until_served_by("predict-1", "predict-2")
        await traffic.end()


async def test_everything_stops_and_starts_again(composed: Composed) -> None:
    """Every worker drains and exits with 0; new containers on the same volumes go on where the old ones were."""
    used, other = await ship(composed), await ship(composed)
    await register(composed, other, "v2")
    await command(composed, "canary", other, "v2", "30", "--force", "--wait")
    async with traffic_to(composed, used) as traffic:
        await traffic.end()
    before = [await command(composed, "versions", model) for model in (used, other)]
    answered = await responses(composed)
    await asyncio.to_thread(composed.compose, "stop")
    ended = {name: inspect(composed.container(name))["State"] for name in (*WORKERS, *SERVICES)}
    # SIGTERM reaches the worker, which is the container's first process.
    assert {name: ended[name]["ExitCode"] for name in WORKERS} == dict.fromkeys(WORKERS, 0)
    # A worker needs them to drain.
    finished = {name: datetime.fromisoformat(state["FinishedAt"]) for name, state in ended.items()}
    assert max(finished[name] for name in WORKERS) < min(finished[name] for name in SERVICES), finished
    await asyncio.to_thread(composed.compose, "down")
    await asyncio.to_thread(composed.up)
    assert [await command(composed, "versions", model) for model in (used, other)] == before
    async with traffic_to(composed, other) as traffic:
        # The first few users may all be of one version.
        await traffic.until_answered(only("v1"), "of production")
        await traffic.until_answered(only("v2"), "of the canary")
        await traffic.end()
    # Nothing that was answered before came again.
    assert await responses(composed) == answered + len(traffic.sent)
    assert {traffic.version(at) for at in range(len(traffic.sent))} == {"v1", "v2"}


async def responses(composed: Composed) -> int:
    """How many there are."""
    topic = composed.settings.topic_responses
    async with topic_log(composed.settings.kafka_bootstrap, topic) as log:
        await log.to_end()
        return len(log.of(topic))

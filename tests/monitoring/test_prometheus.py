"""From requests to a real worker, by a real Prometheus and Alertmanager, to the dashboard and the messages."""

import asyncio
import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml

from deploy.local.service import HOST, Service
from schemas.events import PredictResponse
from streams.serving.latency_total import BOUNDS_SECONDS
from tests.monitoring.binaries import PROMTOOL
from tests.monitoring.dashboard import DASHBOARD, FOLDER, queries, variables_of_labels
from tests.monitoring.servers import Alertmanager, Prometheus
from tests.support.deadline import deadline
from tests.support.models.served_model import LARGEST_X, serve_model, spec_of
from tests.support.promotions.events import event, publish
from tests.support.servers.http_server import HttpRequest, answer, http_server
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, Asking, asking
from tests.support.worker.process import StartWorker

# Nothing signals a scrape or the evaluation of a rule. Prometheus does both each second.
POLL_SECONDS = 0.2
# As many as a turn has invalid outputs: each user has one and two valid ones, so every version fails a third.
USERS = [f"u{number}" for number in range(20)]

Result = TypeVar("Result")
Server = TypeVar("Server", bound=Service)
Labels = dict[str, str]


class Receiver:
    """Takes Alertmanager's messages; `messages` has the path and the labels of each alert in them."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Labels]] = []

    async def serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        self.messages += [(request.path, alert["labels"]) for alert in request.json()["alerts"]]
        writer.write(answer({}))


class Traffic:
    """Sends requests until it ends. A third gets an invalid output, which the rule `error_rate` detects within seconds.

    Half of the other inputs are new, so that the backend is called for as long as the traffic runs: an input that
    was asked before is answered from the cache, and `rate()` of a counter that stands still has no quantile.
    """

    def __init__(self, asker: Asking, model: str) -> None:
        self.answers: list[PredictResponse] = []
        self._asker = asker
        self._model = model
        self._ending = asyncio.Event()
        self._task = asyncio.create_task(self._ask())

    async def end(self) -> None:
        self._ending.set()
        await self._task

    async def _ask(self) -> None:
        begin = 0
        while not self._ending.is_set():
            valid = range(begin, begin + 40)
            self.answers += await self._asker.ask(self._model, [*valid, *([LARGEST_X] * 20)], users=USERS)
            self.answers += await self._asker.ask("nobody-knows-it", [1], users=USERS)
            begin += 20


class Servers:
    """Starts servers, and stops them at the end of the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Service] = []

    def alertmanager(self, receiver: str) -> Alertmanager:
        """Start an Alertmanager that notifies this receiver."""
        return self._start(Alertmanager(self._folder / "alertmanager", receiver))

    def prometheus(self, processes: Sequence[str], alertmanager: Alertmanager) -> Prometheus:
        """Start a Prometheus that scrapes these processes."""
        address = f"{HOST}:{alertmanager.port}"
        return self._start(Prometheus(self._folder / "prometheus", processes, address))

    def stop(self) -> None:
        for server in self._started:
            server.stop()

    def _start(self, server: Server) -> Server:
        self._started.append(server)
        server.prepare()
        server.start()
        return server


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    servers = Servers(tmp_path)
    yield servers
    servers.stop()


@asynccontextmanager
async def traffic_to(asker: Asking, model: str) -> AsyncIterator[Traffic]:
    traffic = Traffic(asker, model)
    try:
        yield traffic
    finally:
        await traffic.end()


async def until(ask: Callable[[], Awaitable[Result]], done: Callable[[Result], object], what: str) -> Result:
    """Ask until the answer satisfies `done`."""
    seen: list[Result] = []
    async with deadline(lambda: f"{what}; the last answer was {seen}"):
        while not (seen and done(seen[0])):
            seen = [await ask()]
            await asyncio.sleep(POLL_SECONDS)
    return seen[0]


@pytest.mark.timeout(300)
async def test_from_requests_to_the_dashboard_and_to_who_is_on_call(
    topics: MakeTopics,
    database: str,
    start_worker: StartWorker,
    tmp_path: Path,
    servers: Servers,
) -> None:
    model = await serve_model(database, tmp_path, canary_percent=30)
    receiver = Receiver()
    async with http_server(receiver.serve) as receiving:
        alertmanager = servers.alertmanager(receiving)
        settings = await topics(
            PARTITIONS,
            postgres_dsn=database,
            http_port=0,
            worker_name="one",
            alert_webhook_url=f"{alertmanager.url}/api/v2/alerts",
        )
        worker = start_worker(settings, "predict,control,monitor,log")
        port = (await worker.logged("http served"))["port"]
        await worker.ready()
        prometheus = servers.prometheus([f"{HOST}:{port}"], alertmanager)
        weight = f'headrace_traffic_weight_ratio{{model_name="{model}", model_version="v2"}}'
        await until(lambda: prometheus.now(weight), lambda found: values(found) == [0.3], "the first scrape")
        began = time.time()
        async with asking(settings) as asker:
            async with traffic_to(asker, model) as traffic:
                await publish(settings, event("canary", model, version="v2", weight=60))
                await until(
                    lambda: prometheus.now(weight), lambda found: values(found) == [0.6], "a promotion"
                )
                nowhere = spec_of(tmp_path, "v2") | {"version": "v3", "artifact_sha256": "0" * 64}
                await publish(
                    settings,
                    event("register", model, model=nowhere),
                    event("canary", model, version="v3", weight=1),
                )
                await the_alerts(alertmanager, receiver, model)
                await the_dashboard_has_data(prometheus, model, began)
            counted = await totals(prometheus, model, traffic.answers)

        assert {version for version, _ in counted} == {"v1", "v2"}
        await quantiles_are_true(prometheus, model, traffic.answers)
        await the_page_is_well_formed(port)
        worker.terminate()
        assert await worker.ended() == 0
        await until(
            lambda: on_call(receiver),
            lambda found: ("HeadraceProcessDown", "", "") in found,
            "a message that the process is down",
        )


async def the_alerts(alertmanager: Alertmanager, receiver: Receiver, model: str) -> None:
    """The monitor's alerts arrive by its webhook and by Prometheus, and only those of the webhook notify."""
    critical = {
        ("load_failure", "v3", "headrace"),
        ("error_rate", "v1", "headrace"),
        ("error_rate", "v2", "headrace"),
    }

    async def of_the_model() -> list[dict[str, Any]]:
        alerts = await alertmanager.alerts()
        return [alert for alert in alerts if alert["labels"].get("model_name") == model]

    def complete(alerts: list[dict[str, Any]]) -> bool:
        forwarded = [alert for alert in alerts if alert["labels"]["alertname"] == "HeadraceAlert"]
        rules = {(each["labels"]["rule"], each["labels"]["model_version"], "headrace") for each in forwarded}
        # Alertmanager suppresses an alert a moment after it shows both.
        suppressed = all(alert["status"]["state"] == "suppressed" for alert in forwarded)
        return rules >= critical and suppressed and {whose(alert["labels"]) for alert in alerts} >= critical

    ours = await until(of_the_model, complete, "alerts in Alertmanager, the forwarded ones suppressed")
    (burning, *_) = [alert for alert in ours if alert["labels"]["alertname"] == "error_rate"]
    assert "of the requests" in burning["annotations"]["summary"]

    await until(lambda: on_call(receiver), lambda found: found >= critical, "messages to who is on call")
    assert "HeadraceAlert" not in {labels["alertname"] for _, labels in receiver.messages}


async def on_call(receiver: Receiver) -> set[tuple[str, str, str]]:
    """The alerts of the messages to who is on call."""
    return {whose(labels) for path, labels in receiver.messages if path == "/on-call"}


def whose(labels: Labels) -> tuple[str, str, str]:
    return labels["alertname"], labels.get("model_version", ""), labels.get("source", "")


async def totals(
    prometheus: Prometheus, model: str, answers: Sequence[PredictResponse]
) -> dict[tuple[str, str], int]:
    """Prometheus has exactly the counts of the answers, once it has scraped the last ones."""
    expected = Counter(
        (each.model_version, "ok" if each.error is None else "error")
        for each in answers
        if each.model_name == model
    )
    unknown = sum(each.model_name != model for each in answers)

    async def counted() -> tuple[dict[tuple[str, str], int], list[float]]:
        mine = await prometheus.now(f'headrace_requests_total{{model_name="{model}"}}')
        others = await prometheus.now('sum(headrace_requests_total{model_name="", outcome="error"})')
        by_version = {
            (each["metric"]["model_version"], each["metric"]["outcome"]): int(each["value"][1])
            for each in mine
            if float(each["value"][1])
        }
        return by_version, values(others)

    found, _ = await until(
        counted, lambda found: found == (dict(expected), [unknown]), f"the totals {expected}"
    )
    return found


async def quantiles_are_true(prometheus: Prometheus, model: str, answers: Sequence[PredictResponse]) -> None:
    """A quantile from Prometheus is in the bucket of the exact quantile of the responses."""
    for version in ("v1", "v2"):
        latencies = sorted(each.latency_ms for each in answers if each.model_version == version)
        for share in (0.5, 0.99):
            query = (
                f"histogram_quantile({share}, sum by (le) (headrace_request_latency_seconds_bucket"
                f'{{model_name="{model}", model_version="{version}"}}))'
            )
            (read,) = values(await prometheus.now(query))
            exact = latencies[math.ceil(share * len(latencies)) - 1] / 1000
            bucket = bisect_left(BOUNDS_SECONDS, exact)
            # The page has the bounds with eight digits.
            assert read <= BOUNDS_SECONDS[bucket] * (1 + 1e-7)
            assert read >= (BOUNDS_SECONDS[bucket - 1] * (1 - 1e-7) if bucket else 0.0)


async def the_dashboard_has_data(prometheus: Prometheus, model: str, began: float) -> None:
    """Every query of the dashboard, as Grafana sends it, while traffic goes on."""
    for name, metric, label in variables_of_labels():
        assert name == "model"
        assert await prometheus.label_values(label, metric) == [model]
    # Two scrapes are needed within it, and on a busy machine some fail.
    variables = {"model": model, "__rate_interval": "5s"}
    answered = {}
    for title, query in queries(variables):
        answered[title] = await until(
            partial(prometheus.over_since, query, began), has_points, f"data of {title}: {query}"
        )
    assert len(answered) > 20
    # The promotion is an annotation with its revision; both versions were served at the same time.
    assert {"5"} <= {each["metric"]["revision"] for each in answered["Promotions"]}
    assert {each["metric"]["model_version"] for each in answered["Traffic split"]} == {"v1", "v2"}
    assert len(answered["Latency in the worker: p50 and p99"]) == 2
    source = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text())
    (uid,) = {each["uid"] for each in source["datasources"]}
    panels = [panel for panel in DASHBOARD["panels"] if "targets" in panel]
    assert {panel["datasource"]["uid"] for panel in panels} == {uid}


async def the_page_is_well_formed(port: int) -> None:
    """Promtool has no complaint about names, units, types and help."""
    async with httpx.AsyncClient(trust_env=False) as client:
        page = (await client.get(f"http://127.0.0.1:{port}/metrics")).content
    linting = await asyncio.create_subprocess_exec(
        PROMTOOL.find(),
        "check",
        "metrics",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await linting.communicate(page)
    ours = [line for line in output.decode().splitlines() if "headrace_" in line]
    assert ours == []


def has_points(series: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(value)) for each in series for _, value in each["values"])


def values(found: list[dict[str, Any]]) -> list[float]:
    return [float(each["value"][1]) for each in found]

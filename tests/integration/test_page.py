"""The live page on the real stack: its stream, access to it, and promotions by it."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from registry.history import history
from registry.metric_windows import MetricWindows
from registry.postgres import Database
from schemas.events import JsonObject, PredictResponse
from streams.clients.predict_client import PredictClient, make_request
from streams.config.settings import Settings
from streams.dashboard import registry_reader as reading
from streams.dashboard.registry_reader import PageReader
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.metrics.deltas import delta
from tests.support.models.served_model import apply, serve_model
from tests.support.promotions.events import event, spec
from tests.support.stack.command import headrace
from tests.support.stack.services import MakeTopics, execute
from tests.support.worker.live_page import PageProcess, live_page, until
from tests.support.worker.process import StartWorker, WorkerProcess

PARTITIONS = 2
TOKEN = "a-token-of-this-test"
REQUESTS = 300


@pytest.fixture
async def settings(topics: MakeTopics, database: str, tmp_path: Path) -> Settings:
    return await topics(
        PARTITIONS,
        postgres_dsn=database,
        artifact_dir=str(tmp_path / "artifacts"),
        metrics_interval_seconds=0.1,
        http_port=0,
        dashboard_token=TOKEN,
    )


@pytest.fixture
async def model(database: str, tmp_path: Path) -> str:
    """Of two versions, served from the worker's first moment."""
    return await serve_model(database, tmp_path, canary_percent=30)


@pytest.fixture
async def worker(settings: Settings, model: str, start_worker: StartWorker) -> WorkerProcess:
    started = start_worker(settings, "predict,control,monitor")
    await started.ready()
    return started


@pytest.fixture
async def page(settings: Settings) -> AsyncIterator[PageProcess]:
    async with live_page(settings) as process:
        yield process


async def answered(settings: Settings, model: str, count: int) -> Counter[str]:
    """Send `count` requests; return the number of answers by version."""
    requests = [make_request(model, user_id=f"u{number}", input={"x": number}) for number in range(count)]
    versions: Counter[str] = Counter()
    async with PredictClient(settings) as client:
        async for answer in client.predict_many(requests):
            assert isinstance(answer, PredictResponse), answer
            versions[answer.model_version] += 1
    return versions


def counted(state: JsonObject) -> Counter[str]:
    """How many requests the lines of each version of the only model add up to."""
    (model,) = state["models"]
    return Counter(
        {
            each["version"]: round(sum(rate or 0.0 for rate in each["lines"]["requests_per_second"]) * 10)
            for each in model["versions"]
        }
    )


async def test_its_lines_add_up_to_what_was_answered(
    settings: Settings, model: str, worker: WorkerProcess, page: PageProcess, database: str
) -> None:
    """The dashboard's process and the monitor serve the same page; a promotion shows at once."""
    versions = await answered(settings, model, REQUESTS)
    state = await until(page.url, lambda state: sum(counted(state).values()) >= REQUESTS)
    assert counted(state) == versions
    (shown,) = state["models"]
    assert [(each["version"], each["percent"]) for each in shown["versions"]] == [("v1", 70.0), ("v2", 30.0)]
    assert all(max(filter(None, each["lines"]["p99_ms"])) > 0 for each in shown["versions"])
    (sign,) = state["workers"]
    assert sign["is_live"]
    assert state["alerts"] == []

    await apply(database, event("promote", model, version="v2", actor="ann", reason="better"))
    after = await until(page.url, lambda state: state["models"][0]["revision"] == shown["revision"] + 1)
    newest = after["models"][0]["changes"][0]
    assert (newest["action"], newest["actor"], newest["reason"]) == ("promote", "ann", "better")
    assert newest["what"] == "v1 70 → 0%, v2 30 → 100%"

    port = (await worker.logged("http served"))["port"]
    async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/")).text == (await client.get(page.url)).text
    monitors = await until(f"http://127.0.0.1:{port}/", lambda _: True, model)
    assert monitors["models"][0]["versions"][0]["percent"] == 0.0
    assert counted(monitors) == versions
    assert await page.interrupted() == 0


async def test_its_files_load_nothing_of_elsewhere(page: PageProcess) -> None:
    """Its policy forbids it; a request with another host name is refused."""
    async with httpx.AsyncClient(trust_env=False, base_url=page.url) as client:
        index = await client.get("/")
        assert index.headers["content-type"].startswith("text/html")
        for path in ("/", "/dashboard/page.js", "/dashboard/page.css", "/dashboard/icon.svg"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-security-policy"].startswith("default-src 'self';")
            assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
            elsewhere = await client.get(path, headers={"Host": "rebound.example"})
            assert elsewhere.status_code == 403
        refused = await client.get("/dashboard/events", headers={"Host": f"rebound.example:{page.port}"})
        assert refused.status_code == 403
        assert (await client.head("/dashboard/events")).status_code == 200
        many = await client.get("/dashboard/events", params={"model": [f"m{number}" for number in range(13)]})
        assert many.status_code == 400
        assert (await client.get("/dashboard/..%2f..%2fpyproject.toml")).status_code == 404


async def test_promoting_takes_the_token_and_the_page_itself(
    model: str, worker: WorkerProcess, page: PageProcess, database: str
) -> None:
    """Its event goes by Kafka to a control worker, and the audit trail has actor and reason."""
    command = {
        "action": "promote",
        "model_name": model,
        "version": "v2",
        "expected_revision": 4,
        "actor": " ann ",
    }
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(trust_env=False, base_url=page.url, timeout=30) as client:

        async def post(body: JsonObject, **headers: str) -> tuple[int, JsonObject]:
            answer = await client.post("/dashboard/promotions", json=body, headers=headers)
            return answer.status_code, answer.json()

        for headers, status, code in (
            ({}, 401, "UNAUTHORIZED"),
            ({"Authorization": f"Bearer {TOKEN}s"}, 401, "UNAUTHORIZED"),
            ({**bearer, "Origin": "http://evil.example"}, 403, "CROSS_SITE"),
            ({**bearer, "Sec-Fetch-Site": "cross-site"}, 403, "CROSS_SITE"),
        ):
            answer = await post(command, **headers)
            assert (answer[0], answer[1]["error"]["code"]) == (status, code)
        for body in (
            command | {"action": "archive"},
            command | {"actor": " "},
            command | {"expected_revision": None},
        ):
            answer = await post(body, **bearer)
            assert (answer[0], answer[1]["error"]["code"]) == (400, "INVALID_EVENT")

        status, result = await post(
            command | {"reason": "hit rate +0.17"}, **bearer, Origin=page.url.rstrip("/")
        )
        assert (status, result["status"], result["revision"]) == (200, "applied", 5)
        ways = {result["via"]}
        status, result = await post(command, **bearer)
        assert (status, result["error"]["code"]) == (200, "STALE_REVISION")
        back = {"action": "rollback", "model_name": model, "expected_revision": 5, "actor": "bo"}
        status, result = await post(back, **bearer)
        assert (status, result["status"], result["revision"]) == (200, "applied", 6)
        ways.add(result["via"])
        opened = await Database.connect(database)
        changes = await history(opened, model)
        await opened.close()
        assert [(each.action, each.actor, each.reason) for each in changes[-2:]] == [
            ("promote", "ann", "hit rate +0.17"),
            ("rollback", "bo", ""),
        ]
        state = await until(page.url, lambda state: state["models"][0]["revision"] == 6)
        assert state["may_promote"]
        # Kafka has half a second: a busy machine takes the other way as well, but not always.
        async with asyncio.timeout(DEADLINE_SECONDS):
            while "kafka" not in ways:
                again = back if result["action"] == "promote" else command
                status, result = await post(again | {"expected_revision": result["revision"]}, **bearer)
                assert (status, result["status"]) == (200, "applied")
                ways.add(result["via"])
    assert "token" not in worker.log


async def test_without_a_token_there_is_no_way_to_promote(settings: Settings) -> None:
    async with (
        live_page(settings.model_copy(update={"dashboard_token": None})) as page,
        httpx.AsyncClient(trust_env=False, base_url=page.url) as client,
    ):
        assert (await client.post("/dashboard/promotions", json={})).status_code == 404
        assert not (await until(page.url, lambda _: True))["may_promote"]


async def test_an_address_that_is_taken_says_what_to_do(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = await headrace("dashboard", "--port", port, settings=settings)
    assert ended.code == 1
    assert f"cannot listen on 127.0.0.1:{port} (" in ended.stderr
    assert "address already in use" in ended.stderr
    assert "; choose another one by --host and --port" in ended.stderr


async def test_of_many_models_a_page_shows_those_it_names(page: PageProcess, database: str) -> None:
    names = await asyncio.gather(*(_registered(database, f"m{number:02}") for number in range(15)))
    state = await until(page.url, lambda state: len(state["model_names"]) == len(names))
    assert [each["model_name"] for each in state["models"]] == names[:12]
    named = await until(page.url, lambda _: True, "m14", "m03", "nobody")
    assert [each["model_name"] for each in named["models"]] == ["m14", "m03"]


async def test_what_is_counted_late_is_shown_too(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a monitor's outage; all of the span is read again now and then, the newest each time."""
    await _registered(database, "m")
    opened = await Database.connect(database)
    windows, reader = MetricWindows(opened), PageReader(opened)
    now = datetime.now(UTC)

    async def counted_at() -> list[int]:
        seen = await reader.read([()])
        return sorted(round((now.timestamp() - 10 * number) / 60) for number, _ in seen.models["m"].points)

    await windows.add("metrics", 0, [delta(0, at=now - timedelta(minutes=10))])
    assert await counted_at() == [10]
    await windows.add("metrics", 0, [delta(1, at=now - timedelta(minutes=5)), delta(2, at=now)])
    assert await counted_at() == [0, 10]
    monkeypatch.setattr(reading, "ALL_WINDOWS_EACH", 0)
    assert await counted_at() == [0, 5, 10]
    await opened.close()


async def test_a_model_that_cannot_be_read_keeps_no_other(database: str) -> None:
    """As another release may register one: the page shows the other models."""
    for name in ("a", "b"):
        await _registered(database, name)
    await execute(
        database,
        """ALTER TABLE model_versions DISABLE TRIGGER USER;
        UPDATE model_versions SET spec = spec || '{"timeout_ms": "soon"}' WHERE model_name = 'a'""",
    )
    opened = await Database.connect(database)
    seen = await PageReader(opened).read([()])
    await opened.close()
    assert (list(seen.model_names), list(seen.models)) == (["a", "b"], ["b"])


async def _registered(dsn: str, name: str) -> str:
    await apply(dsn, event("register", name, model=spec("v1")))
    return name

"""The benchmark of model servers, on a scripted one and for so short that its figures mean nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path

import pytest

from tests.bench.answers import WrongAnswerError
from tests.bench.backends_figures import AT_LEAST, AT_MOST, Row, document
from tests.bench.backends_run import FIGURES, Lengths, Site, measuring_harness
from tests.bench.backends_targets import Target
from tests.bench.workload import PARTITIONS
from tests.servers.launching import Api
from tests.servers.models.toys import recommend
from tests.support.servers.http_server import HttpRequest, answer, http_server
from tests.support.stack.services import MakeTopics

SHORT = Lengths(
    repeats=2,
    grid=[(1, 1), (64, 2)],
    sweeps=1,
    grid_seconds=0.3,
    throughput_seconds=1.0,
    latency_seconds=0.5,
    hang_seconds=0.5,
)
METADATA = {"inputs": [{"name": "user_idx", "datatype": "INT64", "shape": [-1]}], "outputs": []}


class ScriptedServer:
    """A recommender in this process that can hang, or be wrong about one user in `wrong_for`."""

    lists_of_one = False

    def __init__(self, wrong_for: int | None = None) -> None:
        self.url = ""
        self._wrong_for = wrong_for
        self._runs = asyncio.Event()
        self._runs.set()
        self.hung = 0

    def model_url(self, api: Api, model: str) -> str:
        assert api is Api.OPEN_INFERENCE
        return f"{self.url}/v2/models/{model}"

    def pause(self) -> None:
        self._runs.clear()
        self.hung += 1

    def resume(self) -> None:
        self._runs.set()

    async def serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        await self._runs.wait()
        if request.method == "GET":
            writer.write(answer(METADATA))
            return
        asked = request.json()
        (tensor,) = asked["inputs"]
        count = len(tensor["data"])
        items, scores = recommend(tensor["data"])
        if self._wrong_for is not None and self._wrong_for in tensor["data"]:
            scores[0][0] = 7.0
        columns = (("items", "INT64", items), ("scores", "FP64", scores))
        outputs = [
            {"name": name, "datatype": datatype, "shape": [count, 10], "data": list(chain(*rows))}
            for name, datatype, rows in columns
        ]
        writer.write(answer({"id": asked["id"], "outputs": outputs}))


@asynccontextmanager
async def serving(server: ScriptedServer) -> AsyncIterator[Target]:
    async with http_server(server.serve) as url:
        server.url = url
        yield Target(Api.OPEN_INFERENCE, server)


@pytest.mark.xdist_group("bench")
async def test_benchmark_of_model_servers_measures_all(
    topics: MakeTopics, database: str, redis_url: str, tmp_path: Path
) -> None:
    """Every figure is there for each repeat, and the second server hung in each."""
    settings = await topics(PARTITIONS, postgres_dsn=database, redis_url=redis_url)
    row = Row("scripted", "none")
    servers = ScriptedServer(), ScriptedServer()
    async with (
        serving(servers[0]) as first,
        serving(servers[1]) as second,
        measuring_harness(Site(settings, tmp_path, SHORT, frozenset(FIGURES), print)) as measuring,
    ):
        await measuring.measure(row, [first, second])
    assert len(row.throughput) == len(row.latency) == len(row.hang) == SHORT.repeats
    assert [server.hung for server in servers] == [0, SHORT.repeats]
    written = document([row])
    assert written["targets"].keys() == AT_LEAST.keys() | AT_MOST.keys()
    figures = row.figures()
    assert all(figures[name] > 0 for name in figures.keys() - AT_MOST.keys())
    assert row.batch * row.calls > 1


@pytest.mark.xdist_group("bench")
async def test_benchmark_of_model_servers_refuses_wrong_answers(
    topics: MakeTopics, database: str, redis_url: str, tmp_path: Path
) -> None:
    """What a worker answers is checked against the model."""
    settings = await topics(PARTITIONS, postgres_dsn=database, redis_url=redis_url)
    site = Site(settings, tmp_path, SHORT, frozenset({"latency"}), print)
    async with serving(ScriptedServer(wrong_for=5)) as target, measuring_harness(site) as measuring:
        with pytest.raises(WrongAnswerError, match="request 5 is answered with"):
            await measuring.measure(Row("scripted", "none"), [target])

"""Each benchmark from its start to its figures, so small that the figures mean nothing.

Those of model servers, rollbacks and tracing are in files of their own.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import backlog, log, memory, overload, scrape, startup
from tests.bench.answers import WrongAnswerError
from tests.bench.broker import Broker
from tests.bench.competitors import BARE, HEADRACE
from tests.bench.environment import Environment, register_model
from tests.bench.latency import latency_round
from tests.bench.log_figures import COPY, LOOP, document
from tests.bench.log_figures import HEADRACE as HEADRACE_LOG
from tests.bench.overload_figures import WITH, WITHOUT
from tests.bench.overload_figures import document as overload_document
from tests.bench.registry_environment import model_server
from tests.bench.registry_figures import LIMITS
from tests.bench.registry_figures import document as registry_document
from tests.bench.registry_scale import LOADED_VERSIONS, measure
from tests.bench.rounds import RoundRunner
from tests.support.stack.services import StackAddresses

# Nobody else's: a cold round empties it.
REDIS_DB = 15
# Some seconds of writing: PostgreSQL reports what was written a second later, and a rate lies between two reports.
# More than are written in the second by which PostgreSQL's statistics lag behind.
LOG_ROWS = 120_000

# Their topics have the same names.
pytestmark = pytest.mark.xdist_group("bench")


@pytest.fixture
async def environment(stack: StackAddresses, database: str, tmp_path: Path) -> Environment:
    """The run's stack with the benchmarks' model in a registry of the test's own."""
    return await register_model(
        tmp_path, kafka_bootstrap=stack.kafka_bootstrap, postgres_dsn=database, redis_url=stack.redis_url
    )


async def test_request_path(environment: Environment) -> None:
    """Rounds of the bare loop and of Headrace end with figures, and a wrong answer with an error."""
    program = (sys.executable, *BARE.command[1:])
    # Enough of them that their processor time is not less than what the system counts it in.
    bare = replace(BARE, venv=None, command=program, records=30_000)
    cold, warm = (replace(competitor, records=300, redis_db=REDIS_DB) for competitor in HEADRACE)
    async with Broker(environment.kafka_bootstrap) as broker:
        runner = RoundRunner(environment, broker, {}, report=print)
        await runner.prepare()
        echoed = await runner.round(bare)
        assert echoed.records_per_second > 0
        assert echoed.cpu_us_per_record > 0
        assert (await runner.round(cold)).cached_share == 0
        assert (await runner.round(warm)).cached_share == 1
        timed = await latency_round(runner, bare, seconds=0.5)
        assert 0 < timed.p50_ms <= timed.p99_ms <= timed.max_ms
        with pytest.raises(WrongAnswerError, match="is answered with"):
            await runner.round(replace(bare, answers=cold.answers))


async def test_startup_and_memory(environment: Environment) -> None:
    """A worker starts and answers one request; another one answers some, half of them from its cache."""
    (seconds,) = await startup.measure(environment, repeats=1)
    assert startup.evaluate([seconds])["median_seconds"] == seconds
    samples = await memory.measure(environment, 2000, print)
    assert samples[-1].answered == 2000
    assert memory.evaluate(samples, 2000)["rss_min_bytes"] > 0


async def test_overload(environment: Environment) -> None:
    """Loads and backlogs end with figures, whether the canary is slow or not."""
    loads, backlogs = await overload.measure(environment, seconds=1, backlog=500, repeats=1, report=print)
    written = overload_document(loads, backlogs, seconds=1)
    assert written["load"].keys() == written["backlog"].keys() == {WITHOUT, WITH}
    assert all(figures["others"] > 0 for figures in written["load"].values())
    assert len(written["targets"]) == 6


async def test_scrape() -> None:
    """A page of two versions is written while another task takes turns."""
    measured = await scrape.measure(models=1, requests=10, scrapes=1)
    assert measured["versions"] == 2
    assert measured["page_bytes"] > 0


async def test_log(environment: Environment, in_containers: bool) -> None:
    """Every competitor writes the same rows, or it ends with an error; each has its figures."""
    if in_containers:
        pytest.skip("it measures the processor time of PostgreSQL's processes, which a container hides")
    rounds = await log.measure(environment, rows=LOG_ROWS, repeats=1, report=print)
    assert [each.competitor for each in rounds] == [HEADRACE_LOG, LOOP, COPY]
    assert all(each.rows == LOG_ROWS and each.rows_per_second > 0 for each in rounds)
    written = document(rounds)
    assert written["rows_per_second"].keys() == {HEADRACE_LOG, LOOP, COPY}
    assert written["targets"].keys() == {"log_rows_per_second"}


async def test_registry(database: str, tmp_path: Path) -> None:
    """Every model is loaded, followed and routed to, and each figure is there."""
    with model_server(tmp_path) as endpoint:
        measured = await measure(database, endpoint, tmp_path, models=20, repeats=1, report=print)
    assert len(measured.refresh_ms) == len(measured.refreshes) == 20
    assert len(measured.loads) == LOADED_VERSIONS
    assert all(one.stall_ms > 0 for one in (*measured.refreshes, *measured.loads))
    written = registry_document(measured)
    assert written["targets"].keys() == LIMITS.keys()
    assert all(figure > 0 for name, figure in written.items() if isinstance(figure, float))


async def test_backlog() -> None:
    """A backlog before a model in this process and before a server, with nothing failed."""
    rows = await backlog.measure(backlog.KINDS, [1.0], seconds=0.2, report=print)
    assert [(row.kind, row.failed) for row in rows] == [("onnx", 0), ("server", 0)]
    assert all(row.ratio > 0 for row in rows)

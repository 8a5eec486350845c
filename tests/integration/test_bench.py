"""The benchmark's harness, on records so few that its figures mean nothing."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.answers import WrongAnswerError
from tests.bench.broker import Broker
from tests.bench.competitors import BARE, HEADRACE
from tests.bench.environment import register_model
from tests.bench.latency import latency_round
from tests.bench.rounds import RoundRunner
from tests.support.stack.services import StackAddresses

# Nobody else's: a cold round empties it.
REDIS_DB = 15


@pytest.mark.xdist_group("bench")
async def test_harness_times_checks_and_refuses(stack: StackAddresses, database: str, tmp_path: Path) -> None:
    """Rounds of the bare loop and of Headrace end with figures, and a wrong answer with an error."""
    program = (sys.executable, *BARE.command[1:])
    # Enough of them that their processor time is not less than what the system counts it in.
    bare = replace(BARE, venv=None, command=program, records=30_000)
    cold, warm = (replace(competitor, records=300, redis_db=REDIS_DB) for competitor in HEADRACE)
    environment = await register_model(
        tmp_path,
        kafka_bootstrap=stack.kafka_bootstrap,
        postgres_dsn=database,
        redis_url=stack.redis_url,
    )
    async with Broker(stack.kafka_bootstrap) as broker:
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

"""The benchmark of rollbacks, with so few that its figures mean nothing."""

from pathlib import Path

import pytest

from deploy.local.redis import Redis
from tests.bench.rollback_figures import SCENARIOS
from tests.bench.rollback_run import Counts, Site, run
from tests.bench.workload import PARTITIONS
from tests.support.stack.services import MakeTopics

FIGURES = {
    "p50_ms",
    "p99_ms",
    "redis_down_p99_ms",
    "hints_lost_p99_ms",
    "control_killed_p99_ms",
    "direct_p99_ms",
    "command_p99_ms",
    "command_start_ms",
    "confirm_p99_ms",
    "wrong_version_after_confirm",
    "requests",
}


@pytest.mark.xdist_group("bench")
async def test_benchmark_of_rollbacks_plays_every_scenario(
    topics: MakeTopics, database: str, own_redis: Redis, tmp_path: Path
) -> None:
    """Each has its figures, and no answer is by the old version when all workers have confirmed the new one."""
    settings = await topics(
        PARTITIONS,
        postgres_dsn=database,
        redis_url=own_redis.url,
        artifact_dir=str(tmp_path / "artifacts"),
    )
    other_redis = Redis(tmp_path / "other-redis")
    other_redis.prepare()
    other_redis.start()
    try:
        site = Site(settings, own_redis, other_redis, tmp_path, requests_a_second=200, inputs=100)
        written = await run(site, Counts.of(1), print)
    finally:
        other_redis.kill()
    assert written.keys() >= FIGURES
    assert all(written[name] >= 0 for name in FIGURES)
    assert written["command_start_ms"] > 0
    assert written["requests"] > 0
    assert written["wrong_version_after_confirm"] == 0
    assert written["rounds"].keys() == {scenario.name for scenario in SCENARIOS}
    assert written["rounds"]["all_well"]["count"] == 1
    assert written["rounds"]["control_killed"]["by_postgresql"] == 1

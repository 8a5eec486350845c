"""The benchmark of the prediction log, on rows so few that its figures mean nothing."""

from pathlib import Path

import pytest

from tests.bench import log
from tests.bench.environment import register_model
from tests.bench.log_figures import COPY, HEADRACE, LOOP, document
from tests.support.stack.services import StackAddresses

# Some seconds of writing: PostgreSQL tells what was written a second later, and a rate is one between two such times.
ROWS = 100_000


@pytest.mark.timeout(240)
@pytest.mark.xdist_group("bench")
async def test_every_competitor_writes_the_same_rows(
    stack: StackAddresses, database: str, tmp_path: Path, in_containers: bool
) -> None:
    """It ends with an error where they do not; each has its figures."""
    if in_containers:
        pytest.skip("it measures the processor time of PostgreSQL's processes, which a container hides")
    environment = await register_model(
        tmp_path,
        kafka_bootstrap=stack.kafka_bootstrap,
        postgres_dsn=database,
        redis_url=stack.redis_url,
    )
    rounds = await log.measure(environment, rows=ROWS, repeats=1, report=print)
    assert [each.competitor for each in rounds] == [HEADRACE, LOOP, COPY]
    assert all(each.rows == ROWS and each.rows_per_second > 0 for each in rounds)
    written = document(rounds)
    assert written["rows_per_second"].keys() == {HEADRACE, LOOP, COPY}
    assert written["targets"].keys() == {"log_rows_per_second"}

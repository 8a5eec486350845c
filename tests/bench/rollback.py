"""`python -m tests.bench.rollback`: from an operator's call to the last answer by the old version, under traffic.

Writes `build/bench/rollback.json`. Three workers answer 5,000 requests a second from a warm cache while v2 is
promoted and rolled back in turns: with all well, and with something broken. BENCH_ROUNDS is how often with all
well (200); the others become fewer with it.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr
from rich.table import Table

from deploy.local.redis import Redis
from deploy.local.stack import LocalStack
from registry.migrate import migrate
from streams.config.settings import Settings
from streams.kafka.topics import create_topics

from .entry import BUILD, console, entry
from .rollback_figures import SCENARIOS
from .rollback_run import Counts, Site, run
from .tables import ratio_table
from .workload import PARTITIONS

REQUESTS_A_SECOND = 5000
INPUTS = 2000


def main() -> None:
    counts = Counts.of(int(os.environ.get("BENCH_ROUNDS") or 200))
    out = console()
    with TemporaryDirectory(prefix="rollback-", dir=BUILD) as name:
        folder = Path(name)
        other_redis = Redis(folder / "other-redis")
        other_redis.prepare()
        with LocalStack(folder / "stack", out.print) as stack:
            settings = Settings(
                kafka_bootstrap=stack.kafka_bootstrap,
                postgres_dsn=SecretStr(stack.postgres_dsn),
                redis_url=SecretStr(stack.redis_url),
                artifact_dir=str(folder / "artifacts"),
            )
            try:
                other_redis.start()
                asyncio.run(migrate(stack.postgres_dsn))
                asyncio.run(create_topics(settings, PARTITIONS))
                site = Site(settings, stack.redis, other_redis, folder, REQUESTS_A_SECOND, INPUTS)
                figures = asyncio.run(run(site, counts, out.print))
            finally:
                other_redis.kill()
    path = BUILD / "rollback.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    out.print(_rounds_table(figures["rounds"]))
    out.print(ratio_table(figures["targets"]))
    out.print(
        f"{figures['requests']:,} requests, each answered; {figures['wrong_version_after_confirm']} by the old version "
        f"after all workers had confirmed the change; written to {path}"
    )


def _rounds_table(rounds: dict[str, Any]) -> Table:
    table = Table(title="milliseconds from the call", title_justify="left")
    for column in (
        "",
        "times",
        "decided",
        "replied",
        "swapped",
        "last old answer: p50",
        "p99",
        "confirmed, p99",
    ):
        table.add_column(column, justify="left" if column == "" else "right")
    for scenario in SCENARIOS:
        summary = rounds[scenario.name]
        phases = summary["phases_p50_ms"]
        table.add_row(
            scenario.title,
            str(summary["count"]),
            *(f"{phases[phase]:.0f}" for phase in ("decided", "replied", "swapped", "last_old")),
            f"{summary['p99_ms']:.0f}",
            f"{summary['confirm_p99_ms']:.0f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(entry(main))

"""`python -m tests.bench.request_path`: the comparison, its table and `build/bench/request-path.json`.

BENCH_REPEATS is how often each competitor runs (5), BENCH_ONLY names those that do (all), comma-separated;
`latency` is one of the names.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.errors import SetupError

from . import venvs
from .broker import Broker
from .competitors import ALL, BARE, HEADRACE, PEERS, Competitor
from .entry import BUILD, console, entry
from .environment import Environment, prepare
from .figures import document
from .latency import LatencyRound, latency_round
from .rounds import Round, RoundRunner
from .tables import latency_table, ratio_table, speed_table

LATENCY = "latency"
LATENCY_ROUNDS, LATENCY_SECONDS = 3, 20.0
LATENCY_COMPETITORS = (BARE, HEADRACE[1])


def main() -> None:
    """Run everything that is asked for; the file is written even when a competitor answers wrongly."""
    repeats = int(os.environ.get("BENCH_REPEATS") or 5)
    competitors, with_latency = _chosen(os.environ.get("BENCH_ONLY", ""))
    out = console()
    bins = _venvs(competitors, with_latency, out.print)
    with prepare(BUILD, out.print) as environment:
        rounds, latency_rounds = asyncio.run(
            _run(environment, bins, competitors, repeats=repeats, with_latency=with_latency, report=out.print)
        )
    written = document(rounds, latency_rounds)
    path = BUILD / "request-path.json"
    path.write_text(json.dumps(written, indent=1) + "\n")
    out.print(speed_table(rounds), latency_table(latency_rounds), ratio_table(written["targets"]))
    out.print(f"written to {path}")


def _chosen(names: str) -> tuple[Sequence[Competitor], bool]:
    if not names:
        return ALL, True
    wanted = set(names.split(","))
    known = {competitor.name for competitor in ALL} | {LATENCY}
    if wanted - known:
        raise SetupError(
            f"BENCH_ONLY: no {', '.join(sorted(wanted - known))}; there are {', '.join(sorted(known))}"
        )
    return [competitor for competitor in ALL if competitor.name in wanted], LATENCY in wanted


def _venvs(
    competitors: Sequence[Competitor], with_latency: bool, report: Callable[[str], None]
) -> dict[str, Path]:
    taking_part = [*competitors, *(LATENCY_COMPETITORS if with_latency else ())]
    names = sorted({competitor.venv for competitor in taking_part if competitor.venv is not None})
    return {name: venvs.ensure(PEERS / f"{name}.txt", BUILD / "venvs", report) for name in names}


async def _run(
    environment: Environment,
    bins: dict[str, Path],
    competitors: Sequence[Competitor],
    *,
    repeats: int,
    with_latency: bool,
    report: Callable[[str], None],
) -> tuple[list[Round], list[LatencyRound]]:
    rounds: list[Round] = []
    latency_rounds: list[LatencyRound] = []
    began = time.monotonic()
    async with Broker(environment.kafka_bootstrap) as broker:
        runner = RoundRunner(environment, broker, bins, report=report)
        await runner.prepare()
        for repeat in range(1, repeats + 1):
            for competitor in competitors:
                rounds.append(await runner.round(competitor))
                report(
                    f"[{time.monotonic() - began:4.0f} s] round {repeat}/{repeats}  {competitor.name:24}"
                    f"{rounds[-1].records_per_second:10,.0f} records/s"
                )
        for repeat in range(1, LATENCY_ROUNDS + 1 if with_latency else 1):
            for competitor in LATENCY_COMPETITORS:
                latency_rounds.append(await latency_round(runner, competitor, LATENCY_SECONDS))
                report(
                    f"[{time.monotonic() - began:4.0f} s] latency {repeat}/{LATENCY_ROUNDS}  {competitor.name:24}"
                    f"p50 {latency_rounds[-1].p50_ms:.2f} ms  p99 {latency_rounds[-1].p99_ms:.2f} ms"
                )
    return rounds, latency_rounds


if __name__ == "__main__":
    sys.exit(entry(main))

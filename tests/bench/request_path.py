"""`python -m tests.bench.request_path`: the contest, its table and `build/bench/request-path.json`.

BENCH_REPEATS is how often each contender runs (5), BENCH_ONLY names those that do (all), comma-separated;
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
from .contenders import ALL, BARE, HEADRACE, PEERS, Contender
from .contest import Contest, Round
from .entry import BUILD, console, entry
from .figures import document
from .ground import Ground, prepare
from .latency import LatencyRound, latency_round
from .tables import latency_table, ratio_table, speed_table

LATENCY = "latency"
LATENCY_ROUNDS, LATENCY_SECONDS = 3, 20.0
LATENCY_CONTENDERS = (BARE, HEADRACE[1])


def main() -> None:
    """Run everything that is asked for; the file is written even when a contender answers wrongly."""
    repeats = int(os.environ.get("BENCH_REPEATS") or 5)
    contenders, with_latency = _chosen(os.environ.get("BENCH_ONLY", ""))
    out = console()
    bins = _venvs(contenders, with_latency, out.print)
    with prepare(BUILD, out.print) as ground:
        rounds, latency_rounds = asyncio.run(
            _run(ground, bins, contenders, repeats=repeats, with_latency=with_latency, report=out.print)
        )
    written = document(rounds, latency_rounds)
    path = BUILD / "request-path.json"
    path.write_text(json.dumps(written, indent=1) + "\n")
    out.print(speed_table(rounds), latency_table(latency_rounds), ratio_table(written["targets"]))
    out.print(f"written to {path}")


def _chosen(names: str) -> tuple[Sequence[Contender], bool]:
    if not names:
        return ALL, True
    wanted = set(names.split(","))
    known = {contender.name for contender in ALL} | {LATENCY}
    if wanted - known:
        raise SetupError(
            f"BENCH_ONLY: no {', '.join(sorted(wanted - known))}; there are {', '.join(sorted(known))}"
        )
    return [contender for contender in ALL if contender.name in wanted], LATENCY in wanted


def _venvs(
    contenders: Sequence[Contender], with_latency: bool, report: Callable[[str], None]
) -> dict[str, Path]:
    taking_part = [*contenders, *(LATENCY_CONTENDERS if with_latency else ())]
    names = sorted({contender.venv for contender in taking_part if contender.venv is not None})
    return {name: venvs.ensure(PEERS / f"{name}.txt", BUILD / "venvs", report) for name in names}


async def _run(
    ground: Ground,
    bins: dict[str, Path],
    contenders: Sequence[Contender],
    *,
    repeats: int,
    with_latency: bool,
    report: Callable[[str], None],
) -> tuple[list[Round], list[LatencyRound]]:
    rounds: list[Round] = []
    latency_rounds: list[LatencyRound] = []
    began = time.monotonic()
    async with Broker(ground.kafka_bootstrap) as broker:
        contest = Contest(ground, broker, bins, report=report)
        await contest.prepare()
        for repeat in range(1, repeats + 1):
            for contender in contenders:
                rounds.append(await contest.round(contender))
                report(
                    f"[{time.monotonic() - began:4.0f} s] round {repeat}/{repeats}  {contender.name:24}"
                    f"{rounds[-1].records_per_second:10,.0f} records/s"
                )
        for repeat in range(1, LATENCY_ROUNDS + 1 if with_latency else 1):
            for contender in LATENCY_CONTENDERS:
                latency_rounds.append(await latency_round(contest, contender, LATENCY_SECONDS))
                report(
                    f"[{time.monotonic() - began:4.0f} s] latency {repeat}/{LATENCY_ROUNDS}  {contender.name:24}"
                    f"p50 {latency_rounds[-1].p50_ms:.2f} ms  p99 {latency_rounds[-1].p99_ms:.2f} ms"
                )
    return rounds, latency_rounds


if __name__ == "__main__":
    sys.exit(entry(main))

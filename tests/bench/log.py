"""`python -m tests.bench.log`: the role `log` beside what writes the same rows and promises less, in one run.

Writes `build/bench/log.json`. BENCH_REPEATS is the number of rounds (5), BENCH_LOG_ROWS that of the responses
that each competitor logs in each (600,000). Ends with 1 when the target is missed.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import psutil

from registry.logged_predictions import LoggedPrediction
from streams.prediction_log.rows import RowReader

from .answers import WrongAnswerError
from .broker import Broker
from .competitors import HEADRACE as PREDICT
from .competitors import PEERS, Competitor
from .entry import BUILD, console, entry
from .environment import Environment, prepare
from .log_figures import COPY, HEADRACE, LOOP, START_SHARE, LogRound, document, rate
from .running import DEAD_LETTERS, METRICS, Running, run
from .tables import log_table, ratio_table
from .workload import messages

_REQUESTS, _RESPONSES = "bench-log-requests", "bench-log-responses"
_TABLES = {HEADRACE: "prediction_log", LOOP: "bench_loop", COPY: "bench_copy"}
_COLUMNS = LoggedPrediction._fields
_COPIED_AT_ONCE = 2500
_POLL_SECONDS = 0.25
_STALL_SECONDS = 60.0
_INSERTED = "SELECT coalesce(sum(n_tup_ins), 0) FROM pg_stat_user_tables WHERE relname ~ $1"
_TRANSACTIONS = """
    SELECT extract(epoch FROM logged_at)::float8 AS began, count(*) AS rows FROM {table} GROUP BY 1 ORDER BY 1
"""
# Of everything but when it was written.
_CONTENT = f"""
    SELECT count(*) AS rows, sum(hashtextextended(t::text, 0)) AS hash
    FROM (SELECT {", ".join(_COLUMNS)} FROM {{table}}) t
"""


def main() -> int:
    repeats = int(os.environ.get("BENCH_REPEATS") or 5)
    rows = int(os.environ.get("BENCH_LOG_ROWS") or 600_000)
    out = console()
    with prepare(BUILD, out.print) as environment:
        rounds = asyncio.run(measure(environment, rows=rows, repeats=repeats, report=out.print))
    figures = document(rounds)
    path = BUILD / "log.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    out.print(log_table(rounds))
    out.print(ratio_table(figures["targets"]))
    out.print(f"written to {path}")
    return 0 if all(target["reached"] for target in figures["targets"].values()) else 1


async def measure(
    environment: Environment, *, rows: int, repeats: int, report: Callable[[str], None]
) -> list[LogRound]:
    """So many rounds of each competitor in turns, all with the responses to the same requests."""
    database = await asyncpg.connect(environment.postgres_dsn)
    try:
        async with Broker(environment.kafka_bootstrap) as broker:
            await broker.create(DEAD_LETTERS, METRICS, _REQUESTS, _RESPONSES)
            report(f"having {rows:,} requests answered")
            await _answer(environment, broker, rows)
            for table in (_TABLES[LOOP], _TABLES[COPY]):
                await database.execute(f"CREATE TABLE {table} (LIKE prediction_log INCLUDING ALL)")
            logging = _Logging(environment, broker, database, rows)
            rounds = []
            for number in range(repeats):
                for competitor in (HEADRACE, LOOP, COPY):
                    rounds.append(await logging.round(competitor, number))
                    report(f"{competitor}: {rounds[-1].rows_per_second:,.0f} rows/s")
            return rounds
    finally:
        await database.close()


async def _answer(environment: Environment, broker: Broker, rows: int) -> None:
    await broker.fill(_REQUESTS, messages(range(rows)))
    with run(PREDICT[0], environment, {}, _REQUESTS, _RESPONSES) as running:

        async def answered() -> int:
            return await broker.count(_RESPONSES)

        await _until(answered, rows, running)


async def _until(count: Callable[[], Any], wanted: int, running: Running) -> None:
    """Wait until `count` is at least `wanted`, as long as it grows."""
    before, moved = 0, time.monotonic()
    while (now := await count()) < wanted:
        if now != before:
            before, moved = now, time.monotonic()
        if not running.alive or time.monotonic() - moved > _STALL_SECONDS:
            raise WrongAnswerError(f"it stands still at {now} of {wanted}:\n{running.log_end}")
        await asyncio.sleep(_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class _Record:
    """An output as a worker reads it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class _Logging:
    """Has competitors log the responses, each into a table of its own that was emptied."""

    def __init__(self, environment: Environment, broker: Broker, database: Any, rows: int) -> None:
        self._environment = environment
        self._broker = broker
        self._database = database
        self._rows = rows
        self._content: Any = None

    async def round(self, competitor: str, number: int) -> LogRound:
        table = _TABLES[competitor]
        await self._database.execute(f"TRUNCATE {table}")
        # What the others left to be written is not this one's.
        await self._database.execute("CHECKPOINT")
        if competitor == COPY:
            measured = await self._copy(table)
        else:
            measured = await self._process(competitor, table, number)
        content = await self._database.fetchrow(_CONTENT.format(table=table))
        self._content = self._content or content
        if content != self._content or content["rows"] != self._rows:
            raise WrongAnswerError(f"{competitor} wrote {content}, and the first competitor {self._content}")
        return measured

    async def _process(self, competitor: str, table: str, number: int) -> LogRound:
        inserted = await self._inserted(table)

        async def written() -> int:
            return await self._inserted(table) - inserted

        with run(
            self._competitor(competitor, table, number), self._environment, {}, _RESPONSES, _RESPONSES
        ) as running:
            await _until(written, int(START_SHARE * self._rows), running)
            first, cpu, postgres_cpu = (
                await written(),
                running.cpu_seconds,
                await self._postgres_cpu_seconds(),
            )
            await _until(written, self._rows, running)
            counted = self._rows - first
            if not counted:
                # PostgreSQL's statistics lag a second behind.
                raise WrongAnswerError(
                    f"{competitor} was too quick for {self._rows} rows; set BENCH_LOG_ROWS"
                )
            cpu_us = (running.cpu_seconds - cpu) / counted * 1e6
            postgres_cpu_us = (await self._postgres_cpu_seconds() - postgres_cpu) / counted * 1e6
        transactions = await self._database.fetch(_TRANSACTIONS.format(table=table))
        per_second = rate([(row["began"], row["rows"]) for row in transactions])
        return LogRound(competitor, self._rows, per_second, cpu_us, postgres_cpu_us)

    async def _copy(self, table: str) -> LogRound:
        """COPY, and nothing else on the clock: the rows are read and made in between."""
        reader = RowReader(str, keeps_predictions=False)
        seconds = cpu = 0.0
        postgres_cpu = await self._postgres_cpu_seconds()
        batch: list[LoggedPrediction] = []
        async for output in self._broker.read(_RESPONSES, self._rows):
            record = _Record(0, output.appended_ms, output.key, output.value, output.headers)
            batch.append(reader.row(record))
            if len(batch) < _COPIED_AT_ONCE:
                continue
            began, cpu_began = time.perf_counter(), time.process_time()
            await self._database.copy_records_to_table(table, columns=_COLUMNS, records=batch)
            seconds += time.perf_counter() - began
            cpu += time.process_time() - cpu_began
            batch = []
        await self._database.copy_records_to_table(table, columns=_COLUMNS, records=batch)
        copied = self._rows - len(batch)
        postgres_cpu = await self._postgres_cpu_seconds() - postgres_cpu
        return LogRound(
            COPY, self._rows, copied / seconds, cpu / copied * 1e6, postgres_cpu / self._rows * 1e6
        )

    def _competitor(self, name: str, table: str, number: int) -> Competitor:
        group = f"{name}-{number}"
        if name == HEADRACE:
            command: Sequence[str] = (PREDICT[0].command[0], "worker", "--roles", "log")
            return Competitor(name, name, command, self._rows, variables={"HEADRACE_LOG_GROUP_ID": group})
        variables = {
            "BENCH_GROUP": group,
            "BENCH_DSN": self._environment.postgres_dsn,
            "BENCH_TABLE": table,
            "BENCH_COLUMNS": ",".join(_COLUMNS),
        }
        command = (sys.executable, str(PEERS / "log_loop.py"))
        return Competitor(name, name, command, self._rows, variables=variables)

    async def _inserted(self, table: str) -> int:
        return int(await self._database.fetchval(_INSERTED, f"^{table}(_[0-9]{{8}})?$"))

    async def _postgres_cpu_seconds(self) -> float:
        """Of the server with all its processes that are there now."""
        server = psutil.Process(await self._database.fetchval("SELECT pg_backend_pid()")).parent()
        assert server is not None
        times = [process.cpu_times() for process in (server, *server.children())]
        return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    sys.exit(entry(main))

"""`python -m tests.bench.backends`: Headrace beside direct clients of the same model servers, in one run.

Writes `build/bench/backends.json`: throughput beside clients that batch and that do not, what a worker adds to the
latency at low load, and how one version's latency rises while the other's server hangs. BENCH_REPEATS is how often
each is measured (5), BENCH_ONLY names protocols of servers and figures (`mlserver-open-inference`, `throughput`,
`latency`, `hang`, …; all), comma-separated. Ends with 1 when a target is missed.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import SecretStr

from deploy.local.stack import LocalStack
from registry.migrate import migrate
from schemas.errors import SetupError
from streams.config.settings import Settings
from streams.kafka.topics import create_topics
from streams.process.logs import configure_logging
from tests.servers.kinds import KINDS
from tests.servers.launching import Api, ModelServerProcess, install

from .backends_figures import Row, document
from .backends_run import FIGURES, Lengths, Site, measuring_harness
from .backends_targets import Target
from .entry import BUILD, console, entry
from .tables import backend_table, ratio_table
from .venvs import LackingError
from .workload import PARTITIONS

Kind = type[ModelServerProcess]
Apis = Mapping[Kind, Sequence[Api]]


def main() -> int:
    """Run everything that is asked for; 1 when a target is missed, or a server fails that can run here."""
    repeats = int(os.environ.get("BENCH_REPEATS") or 5)
    apis, figures = _chosen(os.environ.get("BENCH_ONLY", ""))
    out = console()
    rows = {
        kind: [Row(_name(kind, api), f"{kind.name} {kind.version()}") for api in apis[kind]] for kind in apis
    }
    failures = _Failures(rows)
    binaries: dict[Kind, Path] = {}
    for kind in apis:
        with failures.noted(kind):
            binaries[kind] = install(kind, out.print)
    with TemporaryDirectory(prefix="backends-", dir=BUILD) as name:
        folder = Path(name)
        with LocalStack(folder / "stack", out.print) as stack, (folder / "log").open("w") as log:
            configure_logging(stream=log)
            settings = Settings(
                kafka_bootstrap=stack.kafka_bootstrap,
                postgres_dsn=SecretStr(stack.postgres_dsn),
                redis_url=SecretStr(stack.redis_url),
                artifact_dir=str(folder / "artifacts"),
            )
            asyncio.run(migrate(stack.postgres_dsn))
            asyncio.run(create_topics(settings, PARTITIONS))
            site = Site(settings, folder, Lengths(repeats), figures, out.print)
            asyncio.run(_measure(site, apis, binaries, rows, failures))
    in_order = [row for own in rows.values() for row in own]
    written = document(in_order)
    path = BUILD / "backends.json"
    path.write_text(json.dumps(written, indent=1) + "\n")
    out.print(backend_table(in_order), ratio_table(written["targets"]))
    out.print(f"written to {path}")
    missed = [name for name, target in written["targets"].items() if not target["reached"]]
    return 1 if missed or failures.serious else 0


def _chosen(names: str) -> tuple[Apis, frozenset[str]]:
    wanted = set(filter(None, names.split(",")))
    by_name = {_name(kind, api): (kind, api) for kind in KINDS for api in kind.apis}
    unknown = wanted - by_name.keys() - set(FIGURES)
    if unknown:
        known = ", ".join((*by_name, *FIGURES))
        raise SetupError(f"BENCH_ONLY: no {', '.join(sorted(unknown))}; there are {known}")
    apis: dict[Kind, list[Api]] = {}
    for name, (kind, api) in by_name.items():
        if name in wanted or not wanted & by_name.keys():
            apis.setdefault(kind, []).append(api)
    return apis, frozenset(wanted & set(FIGURES) or FIGURES)


def _name(kind: Kind, api: Api) -> str:
    return f"{kind.requirements}-{api}"


class _Failures:
    """Why servers did not run; the others go on."""

    def __init__(self, rows: Mapping[Kind, Sequence[Row]]) -> None:
        self._rows = rows
        self.serious = False

    @contextmanager
    def noted(self, kind: Kind) -> Iterator[None]:
        """A server that this machine cannot run is no failure."""
        try:
            yield
        except SetupError as error:
            self.serious = self.serious or not isinstance(error, LackingError)
            for row in self._rows[kind]:
                row.not_run = str(error)


async def _measure(
    site: Site,
    apis: Apis,
    binaries: Mapping[Kind, Path],
    rows: Mapping[Kind, Sequence[Row]],
    failures: _Failures,
) -> None:
    async with measuring_harness(site) as measuring:
        for kind, folder in binaries.items():
            with failures.noted(kind), _two(kind, folder, site.folder, site.report) as servers:
                for api, row in zip(apis[kind], rows[kind], strict=True):
                    await measuring.measure(row, [Target(api, server) for server in servers])


@contextmanager
def _two(
    kind: Kind, binaries: Path, folder: Path, report: Callable[[str], None]
) -> Iterator[Sequence[ModelServerProcess]]:
    report(f"starting {kind.name}, twice")
    servers = [kind(folder / f"{kind.requirements}-{number}", binaries) for number in (1, 2)]
    try:
        for server in servers:
            server.prepare()
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop()


if __name__ == "__main__":
    sys.exit(entry(main))

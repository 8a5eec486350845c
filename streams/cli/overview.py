"""`headrace models`, and `headrace status` without a model: all models of the registry."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings
from streams.cli.registry_access import with_database

if TYPE_CHECKING:
    from registry.postgres import Database
    from registry.snapshot import RegisteredModel, Snapshot
    from registry.worker_heartbeat import WorkerHeartbeat
    from schemas.events import Alert
    from streams.config.settings import Settings

# The last whole windows of the finest resolution, in which the rate is measured.
RATE_SECONDS = 60
_RESOLUTION_SECONDS = 10


@dataclass(frozen=True, slots=True)
class ModelOverview:
    """A model in one line; `requests_per_second` is None where nothing was counted in the last minute."""

    model_name: str
    revision: int
    production: str | None
    canaries: Mapping[str, float]
    requests_per_second: float | None
    alerts: int
    serving: int
    behind: int


@dataclass(frozen=True, slots=True)
class Overview:
    """All models by name; `global_alerts` concern no model, `live_workers` is the number of all."""

    models: Sequence[ModelOverview]
    global_alerts: int
    live_workers: int


def models(*, env_file: EnvFile = None, flags: SetFlags = None, as_json: AsJson = False) -> None:
    """List the names of all models.

    One a line, in alphabetical order. With --json: a list of names.
    """
    import asyncio

    from registry.names import model_names
    from streams.cli.output import print_json

    names = asyncio.run(with_database(command_settings(env_file, flags), model_names))
    if as_json:
        print_json(names)
    else:
        print(*names, sep="\n", end="\n" if names else "")


def show_overview(settings: "Settings", *, as_json: bool) -> None:
    """Print a line for each model, for `headrace status` without a model."""
    import asyncio

    from streams.cli.output import plain_warnings, print_json

    plain_warnings(settings)
    seen = asyncio.run(with_database(settings, _read))
    if as_json:
        print_json(asdict(seen))
    else:
        _draw(seen)


async def _read(database: "Database") -> Overview:
    from datetime import UTC, datetime, timedelta

    from registry.alert_events import AlertEvents
    from registry.heartbeats import Heartbeats
    from registry.metric_windows import MetricWindows
    from registry.store import RegistryStore
    from schemas.windows import window_start

    until = window_start(datetime.now(UTC), _RESOLUTION_SECONDS)
    counted = await MetricWindows(database).request_counts(
        _RESOLUTION_SECONDS, until - timedelta(seconds=RATE_SECONDS), until
    )
    return overview(
        await RegistryStore(database).load(),
        counted,
        await AlertEvents(database).firing(),
        await Heartbeats(database).all(),
    )


def overview(
    snapshot: "Snapshot[RegisteredModel]",
    request_counts: Mapping[str, int],
    firing: "Sequence[Alert]",
    heartbeats: "Sequence[tuple[WorkerHeartbeat, float]]",
) -> Overview:
    """PURE. What is known of each model; `request_counts` are those of the last `RATE_SECONDS`, by model."""
    from registry.routing import weights_of
    from registry.worker_heartbeat import HEARTBEAT_TIMEOUT_SECONDS
    from schemas.models import Status
    from streams.promotions.convergence import convergence

    alerts = Counter(alert.model_name for alert in firing)
    rows = []
    for name, model in sorted(snapshot.models.items()):
        weights = weights_of(model.route)
        in_status = {version: model.versions[version].status for version in weights}
        reached = convergence(heartbeats, name, snapshot.epoch)
        count = request_counts.get(name)
        rows.append(
            ModelOverview(
                model_name=name,
                revision=model.revision,
                production=next((v for v, each in in_status.items() if each is Status.PRODUCTION), None),
                canaries={v: float(weights[v]) for v, each in in_status.items() if each is Status.CANARY},
                requests_per_second=None if count is None else count / RATE_SECONDS,
                alerts=alerts[name],
                serving=len(reached.serving),
                behind=len(reached.behind),
            )
        )
    live = sum(age_seconds < HEARTBEAT_TIMEOUT_SECONDS for _, age_seconds in heartbeats)
    return Overview(rows, alerts[""], live)


def _draw(seen: Overview) -> None:
    from rich.table import Table

    from streams.cli.output import console

    terminal = console()
    if not seen.models:
        terminal.print("no model is registered: `headrace register` adds the first version of one")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "production", "canaries"):
        table.add_column(heading, overflow="fold")
    for heading in ("revision", "req/s", "alerts", "workers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in seen.models:
        rate = "-" if row.requests_per_second is None else f"{row.requests_per_second:,.1f}"
        table.add_row(
            row.model_name,
            row.production or "-",
            ", ".join(f"{version} {weight:g}%" for version, weight in row.canaries.items()),
            str(row.revision),
            rate,
            str(row.alerts or "-"),
            f"{row.behind} of {row.behind + row.serving} behind" if row.behind else str(row.serving),
            style="red" if row.alerts else "yellow" if row.behind else "",
        )
    terminal.print(table)
    if seen.global_alerts:
        terminal.print(f"global alerts that fire: {seen.global_alerts} (`headrace alerts`)", style="red")
    if not seen.live_workers:
        terminal.print("no live worker: start one by `headrace worker`")

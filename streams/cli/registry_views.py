"""`headrace status` and `versions`: the state of a model in the registry."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings
from streams.cli.overview import show_overview
from streams.cli.registry_access import Model, OptionalModel, registered, with_database

if TYPE_CHECKING:
    from rich.console import Console

    from registry.postgres import Database
    from registry.snapshot import RegisteredModel
    from schemas.models import Route

BAR_CELLS = 40
STYLES = {"production": "green", "canary": "yellow", "staging": "dim"}


def status(
    model_name: OptionalModel = None,
    *,
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's traffic split, rollback target and workers.

    Without a model: a line for each, with production, canaries, requests a second in the last minute, firing alerts,
    and workers that do not serve its newest revision. With --json: {"models": [{"model_name", "revision", "production",
    "canaries": {VERSION: PERCENT}, "requests_per_second", "alerts", "serving", "behind"}], "global_alerts",
    "live_workers"}.

    With a model and --json: {"model_name", "revision", "salt", "production", "previous_production", "versions":
    [{"version", "status", "weight"}], "ranges": [{"start", "end", "version"}], "workers": [{"worker",
    "serves", "reason", "older_revision", "unloadable_target"}]}. A worker that does not serve this revision
    serves `older_revision`, or this one without the version that it cannot load.
    """
    import asyncio

    from streams.cli.output import console, print_json

    settings = command_settings(env_file, flags)
    if model_name is None:
        show_overview(settings, as_json=as_json)
        return
    model, workers, older = asyncio.run(
        with_database(settings, lambda database: _status(database, model_name))
    )
    rows = _rows(model)
    if as_json:
        print_json(
            {
                "model_name": model.model_name,
                "revision": model.revision,
                "salt": model.route.salt,
                "production": next((row["version"] for row in rows if row["status"] == "production"), None),
                "previous_production": model.previous_production,
                "versions": rows,
                "ranges": [part.model_dump() for part in model.route.ranges],
                "workers": workers,
            }
        )
    else:
        _draw_status(console(), model, rows, workers, older)


async def _status(
    database: "Database", model_name: str
) -> tuple["RegisteredModel", list[dict[str, Any]], dict[int, "Route"]]:
    """The model, its workers, and the older routes by which some of them answer."""
    from registry.heartbeats import Heartbeats
    from registry.history import routes_at
    from registry.store import RegistryStore
    from streams.promotions.convergence import convergence

    model = await registered(database, model_name)
    epoch = await RegistryStore(database).epoch()
    reached = convergence(await Heartbeats(database).all(), model_name, epoch)
    workers = [
        {
            "worker": worker,
            "serves": worker not in reached.behind,
            "reason": reached.behind.get(worker, ""),
            "older_revision": reached.older_revisions.get(worker),
            "unloadable_target": reached.unloadable_targets.get(worker, ""),
        }
        for worker in (*reached.serving, *reached.behind)
    ]
    older = await routes_at(database, model_name, set(reached.older_revisions.values()))
    return model, workers, older


def _draw_status(
    terminal: "Console",
    model: "RegisteredModel",
    rows: Sequence[dict[str, Any]],
    workers: Sequence[dict[str, Any]],
    older: "Mapping[int, Route]",
) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        if row["status"] != "archived":
            share = f"{row['weight']:g}%" if row["weight"] else ""
            table.add_row(
                row["version"], row["status"], share, bar(row["weight"]), style=STYLES[row["status"]]
            )
    terminal.print(f"{model.model_name}, revision {model.revision}, salt {model.route.salt}")
    terminal.print(table)
    if not model.route.ranges:
        terminal.print(f"nothing takes traffic yet: `headrace promote {model.model_name} VERSION`")
    if model.previous_production is not None:
        terminal.print(f"rollback target: {model.previous_production}")
    serving = [worker["worker"] for worker in workers if worker["serves"]]
    if serving:
        terminal.print(f"served by {', '.join(serving)}")
    for worker in workers:
        if not worker["serves"]:
            terminal.print(_not_yet(worker, older), style="yellow")
    for worker in workers:
        if worker["unloadable_target"]:
            terminal.print(
                f"no rollback target on {worker['worker']}: {worker['unloadable_target']}; mend it, or drop it by "
                f"`headrace archive {model.model_name} {model.previous_production}`",
                style="yellow",
            )
    if not workers:
        terminal.print("no live worker: start one by `headrace worker`")


def _not_yet(worker: dict[str, Any], older: "Mapping[int, Route]") -> str:
    """What a worker answers by instead of the newest route, and why."""
    from streams.cli.output import shares_of

    revision = worker["older_revision"]
    route = older.get(revision)
    instead = "" if route is None else f", which serves revision {revision} ({shares_of(route)})"
    return f"not yet by {worker['worker']}{instead}: {worker['reason']}"


def versions(
    model_name: Model, *, env_file: EnvFile = None, flags: SetFlags = None, as_json: AsJson = False
) -> None:
    """List all versions of a model, oldest first.

    With --json: a list of the versions as they were registered, each with its "status" and "weight".
    """
    import asyncio

    from streams.cli.output import console, print_json

    settings = command_settings(env_file, flags)
    model = asyncio.run(with_database(settings, lambda database: registered(database, model_name)))
    if as_json:
        specs = (version.spec.model_dump(mode="json") for version in model.versions.values())
        print_json([spec | row for spec, row in zip(specs, _rows(model), strict=True)])
        return
    from rich.table import Table

    headings = ["version", "status", "weight", "framework", "served from", "created by", "description"]
    table = Table(*headings, box=None, pad_edge=False)
    for row in _rows(model):
        spec = model.versions[row["version"]].spec
        source = spec.artifact_uri or spec.endpoint
        share = f"{row['weight']:g}%" if row["weight"] else ""
        tags = (f"{name}={value}" for name, value in spec.tags.items())
        about = ", ".join(filter(None, (spec.description, *tags)))
        table.add_row(row["version"], row["status"], share, spec.framework, source, spec.created_by, about)
    console().print(table)


def bar(percent: float) -> str:
    """PURE. Draw a percentage as a bar of at most `BAR_CELLS` cells, exact to an eighth of a cell."""
    eighths = round(percent / 100 * BAR_CELLS * 8)
    if percent > 0:
        eighths = max(1, eighths)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _rows(model: "RegisteredModel") -> list[dict[str, Any]]:
    from registry.routing import weights_of

    weights = weights_of(model.route)
    return [
        {
            "version": name,
            "status": str(version.status),
            "weight": float(weights.get(name, 0)),
        }
        for name, version in model.versions.items()
    ]

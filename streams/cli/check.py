"""`headrace check`: test whether production would accept a version, before it is registered."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.input_files import read_registration
from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from schemas.models import PromotionEvent
    from streams.checking.findings import Findings
    from streams.config.settings import Settings

# Limit of an example and of its predictions in the text; --json has them whole.
SHOWN_CHARACTERS = 400


def check(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", allow_dash=True, help='As for `register`; "-" is standard input.'),
    ],
    *,
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Test whether production would accept a version.

    Does what the registry and a worker would do, before the version is registered: checks the schemas and the
    mapping, fetches and loads the model or calls its server, and predicts the example. Shows what the model
    declares, the schemas that follow from it, and the latency of 1, 8 and 32 examples in one call. Needs no
    Kafka, PostgreSQL or Redis.

    Exit code: 0 production would accept it, 5 refused, 3 a server or store is not reachable.
    """
    import asyncio
    import uuid

    from streams.cli.failures import NOT_REACHABLE, REFUSED
    from streams.cli.output import plain_warnings, print_json, quiet_libraries
    from streams.promotions.events import make_event

    settings = command_settings(env_file, flags)
    quiet_libraries(settings)
    plain_warnings(settings)
    event = make_event({"event_id": str(uuid.uuid4()), "action": "register", **read_registration(file)})
    findings = asyncio.run(_check(event, settings))
    if as_json:
        print_json(findings.document())
    else:
        _print_findings(findings)
    for refusal in findings.refusals:
        print(f"headrace: {refusal.code}: {refusal.message}", file=sys.stderr)
    if findings.unreachable:
        print(f"headrace: {findings.unreachable}", file=sys.stderr)
    if not findings.accepted:
        raise typer.Exit(REFUSED if findings.refusals else NOT_REACHABLE)


async def _check(event: "PromotionEvent", settings: "Settings") -> "Findings":
    from streams.checking.version_check import check_version

    with _progress() as progress:
        return await check_version(event, settings, _Bars(progress))


def _print_findings(findings: "Findings") -> None:
    from streams.cli.output import console, json_line

    out = console()
    out.print(f"{findings.model_name} {findings.version}, {findings.framework}")
    if findings.description is not None:
        print()
        out.print(_declared(findings))
        # Printed without rich, so that they can be copied from any terminal.
        print(f"\ninput_schema, as the model declares it:\n{json_line(findings.description.input_schema())}")
        print(f"output_schema, as the model declares it:\n{json_line(findings.description.output_schema())}")
    if findings.example is not None:
        made = ", made up to fit input_schema, since the version has none" if findings.example_made else ""
        print(f"\nexample{made}:\n{_shortened(findings.example)}")
        if findings.predicted:
            print(f"predictions:\n{_shortened(findings.predictions)}")
    if findings.latency:
        print()
        out.print(_latency(findings))
    _print_conclusion(findings, out)


def _print_conclusion(findings: "Findings", out: "Console") -> None:
    if findings.warnings or findings.accepted:
        print()
    for warning in findings.warnings:
        out.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    if findings.accepted:
        out.print("production would accept it", style="green")


def _declared(findings: "Findings") -> "Table":
    assert findings.description is not None
    table = _table("", "key", "tensor", "type", "shape of one example")
    for kind, tensors in (("input", findings.description.inputs), ("output", findings.description.outputs)):
        for tensor in tensors:
            if tensor.shape is None:
                shape = "not declared"
            elif tensor.classes is not None:
                shape = "an object by class"
            else:
                shape = f"[{', '.join('any' if size is None else str(size) for size in tensor.shape)}]"
            table.add_row(kind, tensor.key, tensor.name, tensor.datatype, shape)
    return table


def _latency(findings: "Findings") -> "Table":
    table = _table("examples in a call", "calls", "median ms", "p99 ms", "examples/s", right=True)
    for row in findings.latency:
        table.add_row(
            str(row.batch_size),
            str(row.calls),
            f"{row.median_ms:.3g}",
            f"{row.p99_ms:.3g}",
            f"{row.examples_per_second:,.0f}",
        )
    return table


def _table(*columns: str, right: bool = False) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if right else "left")
    return table


def _shortened(value: Any) -> str:
    from streams.cli.output import json_line

    text = json_line(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text)} characters)"


def _progress() -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from streams.cli.output import console

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
        console=console(to_stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class _Bars:
    """Progress bars: one for the model file, one for each batch size."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def fetched(self, size_bytes: int, total_bytes: int | None) -> None:
        from rich.filesize import decimal

        total = "" if total_bytes is None else f" of {decimal(total_bytes)}"
        self._show("model file", size_bytes, total_bytes, f"{decimal(size_bytes)}{total}")

    def measured(self, batch_size: int, part: float) -> None:
        self._show(f"latency, {batch_size} in a call", part, 1.0, f"{part:.0%}")

    def _show(self, what: str, completed: float, total: float | None, done: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, done=done)
        self._progress.update(self._tasks[what], completed=completed, done=done)

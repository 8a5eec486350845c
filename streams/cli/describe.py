"""`headrace describe`, and what `register MODEL VERSION FILE` shares with it: a registration made from a model file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.completion import complete_models
from streams.cli.options import EnvFile, SetFlags, command_settings
from streams.cli.promotion_execution import user_name

if TYPE_CHECKING:
    from schemas.events import JsonObject
    from streams.config.settings import Settings
    from workers.artifacts.store import Progress

Description = Annotated[
    str,
    typer.Option(
        "--description", metavar="TEXT", help="What the version is, for people.", show_default=False
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="NAME=VALUE", help="A tag of the version; repeatable.", show_default=False),
]


def describe(
    source: Annotated[
        str, typer.Argument(metavar="MODEL_FILE", help="An ONNX file, or a URI that artifact_uri may have.")
    ],
    *,
    model_name: Annotated[
        str,
        typer.Option("--model", metavar="MODEL", help="The model's name.", autocompletion=complete_models),
    ],
    version: Annotated[str, typer.Option("--version", metavar="VERSION", help="The version's name.")],
    description: Description = "",
    tags: Tags = None,
    env_file: EnvFile = None,
    flags: SetFlags = None,
) -> None:
    """Write a registration file for an ONNX model.

    Fetches, hashes and loads the file as a worker would, and prints JSON for `check` and `register -f`: the digest, the
    schemas that the model declares, and an example with its predictions. docs/reference/versions.md lists further
    fields. Needs no Kafka, PostgreSQL or Redis.
    """
    import json

    from streams.cli.output import plain_warnings, quiet_libraries
    from streams.promotions.events import make_event

    settings = command_settings(env_file, flags)
    quiet_libraries(settings)
    plain_warnings(settings)
    fields = drafted(settings, model_name, version, source, description=description, tags=tags or [])
    make_event({"event_id": "describe", "action": "register", **fields})
    print(json.dumps(fields, indent=2))


def drafted(
    settings: "Settings", model_name: str, version: str, source: str, *, description: str, tags: list[str]
) -> "JsonObject":
    """The fields of a registration of the file or URI `source`; prints notes on standard error.

    Raises what `draft_version` raises, and BadParameter for a file that does not exist.
    """
    import asyncio

    from streams.checking.drafting import draft_version

    given = {"description": description, "tags": _pairs(tags), "created_by": user_name()}
    uri = _uri(source)
    with download_bar() as on_progress:
        draft = asyncio.run(draft_version(uri, settings, on_progress))
    for note in draft.notes:
        print(f"headrace: {note}", file=sys.stderr)
    stated = {name: value for name, value in given.items() if value}
    return {"model_name": model_name, "model": {"version": version, **stated, **draft.fields}}


def _uri(source: str) -> str:
    if "://" in source or source.startswith("mlflow:"):
        return source
    path = Path(source).absolute()
    if not path.is_file():
        raise typer.BadParameter(f"{source} is not a file")
    return path.as_uri()


def _pairs(tags: list[str]) -> dict[str, Any]:
    pairs = {}
    for tag in tags:
        name, equals, value = tag.partition("=")
        if not name or not equals or name in pairs:
            raise typer.BadParameter("write NAME=VALUE, once for each name", param_hint="--tag")
        pairs[name] = value
    return pairs


@contextmanager
def download_bar() -> "Iterator[Progress]":
    """A progress bar of the download, on a terminal; the value is the callback that advances it."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from streams.cli.output import console

    with Progress(
        TextColumn("model file"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console(to_stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task("")
        yield lambda size_bytes, total_bytes: progress.update(task, completed=size_bytes, total=total_bytes)

"""`headrace import`: register a model version of MLflow. (A module named `import` could not be imported.)"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.describe import download_bar
from streams.cli.promotion_execution import promotion

if TYPE_CHECKING:
    from streams.config.settings import Settings


@promotion
def import_(
    uri: Annotated[
        str,
        typer.Argument(
            metavar="mlflow:/NAME/VERSION",
            help="A version in MLflow's model registry, or mlflow:/NAME@ALIAS for the one that an alias names now.",
        ),
    ],
    *,
    model_name: Annotated[
        str | None,
        typer.Option(
            "--model-name",
            metavar="MODEL",
            help="The model; by default its name in MLflow.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="VERSION",
            help="The version; by default its number in MLflow.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be registered, as a file for `register`.")
    ] = False,
    settings: "Settings",
) -> dict[str, Any]:
    """Add a version from MLflow to a model, without traffic.

    Fetches, hashes and loads its ONNX file as a worker would. The schemas come from the file and the model's
    signature, the metrics from its run. Refuses a version without an ONNX file: pickles are never loaded. Exit
    code 1: the file or MLflow's version is not accepted.
    """
    import asyncio

    from streams.cli.output import plain_warnings, print_json, quiet_libraries
    from streams.models.egress import artifact_sources
    from streams.models.mlflow_import import import_version
    from streams.promotions.events import make_event
    from workers.artifacts.mlflow import version_uri

    quiet_libraries(settings)
    plain_warnings(settings)
    sources = artifact_sources(settings)
    named = asyncio.run(version_uri(uri, sources.mlflow))
    source = sources.mlflow_version(named)
    name = source.name if model_name is None else model_name
    _refuse_name(name)
    with download_bar() as on_progress:
        imported = asyncio.run(import_version(source, settings, on_progress))
    if "@" in uri:
        print(f"headrace: {uri} is {named} now; the alias is not followed", file=sys.stderr)
    for note in imported.notes:
        print(f"headrace: {note}", file=sys.stderr)
    model = imported.model | ({} if version is None else {"version": version})
    fields = {"action": "register", "model_name": name, "model": model}
    if dry_run:
        make_event({"event_id": "dry-run", **fields})
        print_json({"model_name": name, "model": model})
        raise typer.Exit
    return fields


def _refuse_name(model_name: str) -> None:
    """Raise PromotionRejectedError for a name that is valid in MLflow only, before anything is fetched."""
    from pydantic import TypeAdapter, ValidationError

    from schemas.errors import PromotionRejectedError, RejectionCode
    from schemas.events import ModelName

    try:
        TypeAdapter(ModelName).validate_python(model_name)
    except ValidationError:
        raise PromotionRejectedError(
            RejectionCode.INVALID_EVENT,
            f"{model_name!r} is no name for a model here (lower-case letters, digits, dots and dashes); give it "
            "one by --model-name",
        ) from None

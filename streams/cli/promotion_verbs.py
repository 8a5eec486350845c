"""`headrace register`, `canary`, `split`, `promote`, `rollback`, `archive`, `reshuffle`: the changes of a model.

Each function returns the fields of its own event; the decorator `promotion` makes a verb of it.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.completion import complete_models, complete_versions, complete_weights
from streams.cli.describe import Description, Tags, drafted
from streams.cli.input_files import OptionalInputFile, read_registration
from streams.cli.promotion_execution import Force, promotion
from streams.cli.registry_access import Model

if TYPE_CHECKING:
    from decimal import Decimal

    from streams.config.settings import Settings

Version = Annotated[
    str,
    typer.Argument(metavar="VERSION", help="A registered version.", autocompletion=complete_versions),
]


@promotion
def register(
    model_name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="The model.", show_default=False, autocompletion=complete_models
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="The new version.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL_FILE",
            help="Its ONNX file, or a URI that artifact_uri may have.",
            show_default=False,
        ),
    ] = None,
    *,
    file: OptionalInputFile = None,
    description: Description = "",
    tags: Tags = None,
    force: Force = False,
    settings: "Settings",
) -> dict[str, Any]:
    """Add a version to a model, without traffic.

    The first version creates the model. `register MODEL VERSION MODEL_FILE` registers what `headrace describe` says of
    an ONNX file. `register -f FILE` registers the version in a file, {"model_name": …, "model": {"version": …,
    "framework": …, …}}; docs/reference/versions.md lists its fields.

    The version is loaded here first, as a worker would. Registering it again with the same content changes nothing,
    and succeeds.
    """
    if file is not None:
        if model_name is not None or description or tags:
            raise typer.BadParameter("the file names the model and describes the version; give -f alone")
        return {**read_registration(file), "force": force}
    if model_name is None or version is None or source is None:
        raise typer.BadParameter("give MODEL VERSION MODEL_FILE, or -f FILE")
    # It is loaded already.
    return drafted(settings, model_name, version, source, description=description, tags=tags or [])


@promotion
def canary(
    model_name: Model,
    version: Version,
    weight: Annotated[
        str, typer.Argument(metavar="WEIGHT", help="Percent of users, over 0 and under 100, two decimals.")
    ],
    *,
    force: Force = False,
) -> dict[str, Any]:
    """Give a canary a share of production's traffic.

    For a version that is a canary already, changes its share. Users of the canary keep it when its weight rises.
    """
    return {"model_name": model_name, "version": version, "weight": _number(weight), "force": force}


@promotion
def split(
    model_name: Model,
    weights: Annotated[
        list[str],
        typer.Argument(
            metavar="VERSION=WEIGHT",
            help="Versions, each with its percent of users, like v2=5.",
            autocompletion=complete_weights,
        ),
    ],
    *,
    force: Force = False,
) -> dict[str, Any]:
    """Give several canaries their weights at once.

    Production keeps the rest. A canary that is not named loses its traffic.
    """
    return {"model_name": model_name, "weights": _weights(weights), "force": force}


@promotion
def promote(model_name: Model, version: Version, *, force: Force = False) -> dict[str, Any]:
    """Give a version all traffic.

    A version that had none is loaded here first, as a worker would. The previous production version is archived, and
    stays ready for a rollback.
    """
    return {"model_name": model_name, "version": version, "force": force}


@promotion
def rollback(
    model_name: Model,
    *,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="VERSION",
            help="An archived version to give all traffic, or one canary to stop.",
            show_default=False,
            autocompletion=complete_versions,
        ),
    ] = None,
    force: Force = False,
) -> dict[str, Any]:
    """Stop all canaries, or go back to the previous production.

    The latter happens when no canary takes traffic. A second rollback is refused, so repeating the command is safe.
    So is one to a version that no worker can load.
    """
    return {"model_name": model_name, "version": version, "force": force}


@promotion
def archive(model_name: Model, version: Version) -> dict[str, Any]:
    """Retire a version without traffic, or drop the rollback target.

    Only a rollback that names the version brings it back. Workers do not load a dropped rollback target any more.
    """
    return {"model_name": model_name, "version": version}


@promotion
def reshuffle(
    model_name: Model,
    salt: Annotated[str, typer.Argument(metavar="SALT", help="Any word that this model did not use before.")],
) -> dict[str, Any]:
    """Assign all users anew, with the same weights.

    For the next experiment: its groups do not depend on those of the last one.
    """
    return {"model_name": model_name, "salt": salt}


def _weights(given: list[str]) -> "dict[str, Decimal]":
    from schemas.errors import PromotionRejectedError, RejectionCode

    weights: dict[str, Decimal] = {}
    for each in given:
        version, _, weight = each.rpartition("=")
        if not version or version in weights:
            raise PromotionRejectedError(
                RejectionCode.BAD_WEIGHT, f"{each}: write VERSION=WEIGHT, like v2=5, once for each version"
            )
        weights[version] = _number(weight)
    return weights


def _number(weight: str) -> "Decimal":
    from decimal import Decimal, InvalidOperation

    from schemas.errors import PromotionRejectedError, RejectionCode

    try:
        return Decimal(weight)
    except InvalidOperation:
        raise PromotionRejectedError(
            RejectionCode.BAD_WEIGHT, f"{weight} is no number; write percent without a sign, like 5 or 12.5"
        ) from None

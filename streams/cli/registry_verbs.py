"""`headrace register`, `canary`, `promote`, `rollback`: what changes a model's versions and traffic.

Each builds one promotion event and gives it to `_decided`, which alone knows where events go.
"""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings

if TYPE_CHECKING:
    from decimal import Decimal

    from registry.store import RegistryStore
    from schemas.events import JsonObject
    from schemas.models import PromotionEvent, PromotionResult
    from streams.settings import Settings

T = TypeVar("T")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have no name.
        return ""


Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A registered version.")]
Actor = Annotated[
    str,
    typer.Option("--actor", default_factory=_user, show_default="your user name", help="Who decides this."),
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")]
ExpectedRevision = Annotated[
    int | None,
    typer.Option(
        "--expected-revision",
        help="Refuse if the model is at another revision: it was changed since you looked.",
        show_default=False,
    ),
]


def register(
    *,
    file: Annotated[
        Path, typer.Option("-f", "--file", allow_dash=True, help='JSON file; "-" is standard input.')
    ],
    reason: Reason = "",
    actor: Actor,
    expected_revision: ExpectedRevision = None,
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Add a version to a model; it takes no traffic yet. The first one makes the model.

    The file holds {"model_name": …, "model": {"version": …, "framework": …, …}} as in a promotion event
    (`headrace schemas` has its JSON Schema). Exit code: 0 applied, 2 refused, 3 PostgreSQL not reachable.
    """
    document = _read(file)
    settings = command_settings(env_file, flags)
    fields = {"model_name": document.get("model_name"), "model": document.get("model")}
    why = {"reason": reason, "actor": actor, "expected_revision": expected_revision}
    _promotion(settings, {"action": "register", **fields, **why}, as_json=as_json)


def canary(
    model_name: Model,
    version: Version,
    weight: Annotated[
        str, typer.Argument(metavar="WEIGHT", help="Percent of users, over 0 and under 100, two decimals.")
    ],
    *,
    reason: Reason = "",
    actor: Actor,
    expected_revision: ExpectedRevision = None,
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Give a version a part of production's traffic, or change that part.

    Users that have the canary keep it when its weight is raised. Exit code: 0 applied, 2 refused,
    3 PostgreSQL not reachable.
    """
    settings = command_settings(env_file, flags)
    fields = {"model_name": model_name, "version": version, "weight": _number(weight)}
    why = {"reason": reason, "actor": actor, "expected_revision": expected_revision}
    _promotion(settings, {"action": "canary", **fields, **why}, as_json=as_json)


def promote(
    model_name: Model,
    version: Version,
    *,
    reason: Reason = "",
    actor: Actor,
    expected_revision: ExpectedRevision = None,
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Give a version all traffic. The former production is archived and stays ready for a rollback.

    Exit code: 0 applied, 2 refused, 3 PostgreSQL not reachable.
    """
    settings = command_settings(env_file, flags)
    fields = {"model_name": model_name, "version": version}
    why = {"reason": reason, "actor": actor, "expected_revision": expected_revision}
    _promotion(settings, {"action": "promote", **fields, **why}, as_json=as_json)


def rollback(
    model_name: Model,
    *,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            help="An archived version to give all traffic, or one canary to stop.",
            show_default=False,
        ),
    ] = None,
    reason: Reason = "",
    actor: Actor,
    expected_revision: ExpectedRevision = None,
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Stop all canaries; without a canary running, go back to the previous production.

    Exit code: 0 applied, 2 refused, 3 PostgreSQL not reachable.
    """
    settings = command_settings(env_file, flags)
    fields = {"model_name": model_name, "version": version}
    why = {"reason": reason, "actor": actor, "expected_revision": expected_revision}
    _promotion(settings, {"action": "rollback", **fields, **why}, as_json=as_json)


def _promotion(settings: "Settings", fields: dict[str, Any], *, as_json: bool) -> None:
    """Build an event, have it decided, tell the result, and end with its exit code."""
    import asyncio

    from streams.cli.failures import REFUSED
    from streams.cli.output import print_json

    result = asyncio.run(_decided(settings, _event(fields)))
    if as_json:
        print_json(result)
    if result.error is not None:
        print(f"headrace: {result.error.code}: {result.error.message}", file=sys.stderr)
        raise typer.Exit(REFUSED)
    if not as_json:
        print(f"applied: {_told(result)}")


def _told(result: "PromotionResult") -> str:
    from registry.routing import weights_of

    weights = weights_of(result.route) if result.route else {}
    shares = ", ".join(f"{version} {float(weight):g}%" for version, weight in weights.items())
    return f"{result.model_name} is at revision {result.revision}, {shares or 'nothing takes traffic yet'}"


def _event(fields: dict[str, Any]) -> "PromotionEvent":
    import uuid

    from pydantic import ValidationError

    from schemas.errors import PromotionRejectedError, RejectionCode
    from schemas.models import PromotionEvent

    try:
        return PromotionEvent.model_validate({"event_id": str(uuid.uuid4()), **fields})
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(step) for step in one['loc']) or 'event'}: {one['msg']}" for one in error.errors()
        )
        raise PromotionRejectedError(RejectionCode.INVALID_EVENT, wrong) from None


async def _decided(settings: "Settings", event: "PromotionEvent") -> "PromotionResult":
    from schemas.errors import RegistryUnavailableError

    async def apply(store: "RegistryStore") -> "PromotionResult":
        try:
            return await store.apply(event)
        except RegistryUnavailableError as error:
            raise RegistryUnavailableError(
                f"{error}; it may have been applied: look at `headrace status {event.model_name}` first"
            ) from error

    return await with_store(settings, apply)


async def with_store(settings: "Settings", call: "Callable[[RegistryStore], Awaitable[T]]") -> T:
    """Call with a store of this call's own."""
    from registry.store import RegistryStore

    store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
    try:
        return await call(store)
    finally:
        await store.close()


def _read(file: Path) -> "JsonObject":
    from schemas.errors import MalformedRecordError, PromotionRejectedError, RejectionCode
    from schemas.wire import read_object

    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return read_object(content)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from None
    except MalformedRecordError as error:
        raise PromotionRejectedError(RejectionCode.INVALID_EVENT, f"{file}: {error}") from None


def _number(weight: str) -> "Decimal":
    from decimal import Decimal, InvalidOperation

    from schemas.errors import PromotionRejectedError, RejectionCode

    try:
        return Decimal(weight)
    except InvalidOperation:
        raise PromotionRejectedError(
            RejectionCode.BAD_WEIGHT, f"{weight} is no number; write percent without a sign, like 5 or 12.5"
        ) from None

"""`headrace history` and `route`: the changes of a model, and the reason for a user's version."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings
from streams.cli.registry_access import Model, refuse_unknown, with_database

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.assignment import Assignment, Change
    from registry.postgres import Database
    from streams.config.settings import Settings


def history(
    model_name: Model, *, env_file: EnvFile = None, flags: SetFlags = None, as_json: AsJson = False
) -> None:
    """Show every change of a model: when, what, who and why.

    With --json: a list of {"event_id", "revision", "action", "actor", "reason", "before", "after", "ranges",
    "applied_at"}, oldest first; "before" and "after" are {"revision", "salt", "weights",
    "statuses", "previous_production"}.
    """
    from streams.cli.output import console, print_json

    changes = _changes(command_settings(env_file, flags), model_name)
    if as_json:
        print_json([_plain(change) for change in changes])
        return
    from rich.table import Table

    from registry.assignment import differences
    from schemas.bounds import rfc3339

    table = Table(box=None, pad_edge=False)
    for heading in ("time", "rev", "action"):
        table.add_column(heading, no_wrap=True)
    for heading in ("changed", "actor", "reason"):
        table.add_column(heading, overflow="fold")
    for change in changes:
        table.add_row(
            rfc3339(change.applied_at),
            str(change.revision),
            change.action,
            ", ".join(differences(change.before, change.after)),
            change.actor,
            change.reason,
        )
    console().print(table)


def route(
    model_name: Model,
    *,
    user: Annotated[str, typer.Option("--user", metavar="USER", help="The user's id.")],
    at_revision: Annotated[
        int | None,
        typer.Option(
            "--at-revision",
            metavar="REVISION",
            help="An earlier revision, instead of the current one.",
            show_default=False,
        ),
    ] = None,
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Show which version a user gets, and why.

    Now, or at any earlier revision. With --json: {"model_name", "user_id", "revision", "salt", "bucket",
    "version", "status", "weight", "start", "end", "since"}; "since" is the change that gave the user this
    version, as in `history`. "version" and "since" are null while no version takes traffic.
    """
    from registry.assignment import assign
    from schemas.errors import InvalidRequestError
    from streams.cli.output import print_json

    changes = _changes(command_settings(env_file, flags), model_name)
    until = changes[-1].revision if at_revision is None else at_revision
    if not changes[0].revision <= until <= changes[-1].revision:
        raise InvalidRequestError(
            f"{model_name} has no revision {until}: it has {changes[0].revision} to {changes[-1].revision} "
            f"(`headrace history {model_name}`)"
        )
    try:
        assignment = assign([change for change in changes if change.revision <= until], user)
    except UnicodeEncodeError:
        raise InvalidRequestError("--user is not UTF-8, so no request can name this user") from None
    if as_json:
        print_json(_document(model_name, user, assignment))
    else:
        print("\n".join(explained(model_name, user, assignment)))


def explained(model_name: str, user: str, assignment: "Assignment") -> list[str]:
    """PURE. Format an assignment as lines of text, the version first."""
    from schemas.bounds import rfc3339

    at = f"{model_name} at revision {assignment.revision}"
    bucket = f"bucket {assignment.bucket} of 0 to 9999, by the salt {assignment.salt}"
    since = assignment.since
    if since is None:
        return [f"{user} gets no version of {at}: nothing takes traffic", bucket]
    buckets = f"buckets {assignment.start} to {assignment.end - 1} go to {assignment.version}"
    actor = f" by {since.actor}" if since.actor else ""
    reason = f": {since.reason}" if since.reason else ""
    return [
        f"{user} gets {assignment.version} of {at}",
        bucket,
        f"{buckets}, {assignment.status}, {assignment.weight:g}% of all users",
        f"since revision {since.revision}, {since.action}{actor} at {rfc3339(since.applied_at)}{reason}",
        f"by event {since.event_id}",
    ]


def _changes(settings: "Settings", model_name: str) -> "Sequence[Change]":
    import asyncio

    return asyncio.run(with_database(settings, lambda database: changes_of(database, model_name)))


async def changes_of(database: "Database", model_name: str) -> "Sequence[Change]":
    """The audit trail of a model, oldest first; raises UnknownModelError."""
    from registry.history import history as read_history

    changes = await read_history(database, model_name)
    if not changes:
        await refuse_unknown(database, model_name)
    return changes


def _document(model_name: str, user: str, assignment: "Assignment") -> dict[str, Any]:
    return {
        "model_name": model_name,
        "user_id": user,
        "revision": assignment.revision,
        "salt": assignment.salt,
        "bucket": assignment.bucket,
        "version": assignment.version,
        "status": assignment.status,
        "weight": assignment.weight,
        "start": assignment.start,
        "end": assignment.end,
        "since": None if assignment.since is None else _plain(assignment.since),
    }


def _plain(change: "Change") -> dict[str, Any]:
    from schemas.bounds import rfc3339

    return {
        "event_id": change.event_id,
        "revision": change.revision,
        "action": change.action,
        "actor": change.actor,
        "reason": change.reason,
        "before": change.before,
        "after": change.after,
        "ranges": [part.model_dump() for part in change.route.ranges],
        "applied_at": rfc3339(change.applied_at),
    }

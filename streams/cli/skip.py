"""`headrace skip` and `skips`: make the workers step over a record, and who did it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings
from streams.cli.promotion_execution import user_name
from streams.cli.registry_access import with_database

if TYPE_CHECKING:
    from registry.skipped_records import SkippedRecord


def skip(
    *,
    topic: Annotated[str, typer.Option("--topic", metavar="TOPIC", help="The topic, which workers read.")],
    partition: Annotated[
        int, typer.Option("--partition", metavar="NUMBER", min=0, help="The partition's number.")
    ],
    offset: Annotated[
        int,
        typer.Option(
            "--offset", metavar="OFFSET", min=0, help="The record's offset: the one that is read next."
        ),
    ],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit trail and the dead letter.")
    ],
    actor: Annotated[
        str,
        typer.Option(
            "--actor",
            metavar="NAME",
            default_factory=user_name,
            show_default="your user name",
            help="Who skips the record.",
        ),
    ],
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Make the workers step over the record that they read next.

    For a record that stops its partition. The workers of the topic's role must have ended. Writes a dead letter with
    the record's place and the reason, a row of the audit trail (`headrace skips`), and the offset behind the record.
    Workers step over a record that ends their processes by themselves. With --json: {"group_id", "topic",
    "partition", "offset", "actor", "reason", "skipped_at"}. Exit code: 0 skipped, 5 refused, 3 not reachable.
    """
    import asyncio
    from datetime import UTC, datetime

    from registry.skipped_records import SkippedRecords
    from streams.cli.output import print_json, quiet_libraries
    from streams.kafka.offset_tracker import Partition
    from streams.kafka.skipping import group_of, skipping

    settings = command_settings(env_file, flags)
    quiet_libraries(settings)

    group_id = group_of(settings, topic)
    row = _row(
        {
            "group_id": group_id,
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "actor": actor,
            "reason": reason,
            "skipped_at": datetime.now(UTC),
        }
    )

    async def ask(database: Any) -> None:
        async with (
            skipping(settings, Partition(topic, partition), offset, group_id=group_id) as skipped,
            # The row is stored when the offset is committed.
            SkippedRecords(database).adding(row),
        ):
            await skipped.write_dead_letter(reason)
            await skipped.commit()

    asyncio.run(with_database(settings, ask))
    if as_json:
        print_json(row)
    else:
        print(f"skipped: the group {group_id} reads offset {offset + 1} of {topic}/{partition} next")


def _row(fields: dict[str, Any]) -> "SkippedRecord":
    from pydantic import ValidationError

    from registry.skipped_records import SkippedRecord
    from schemas.errors import InvalidRequestError
    from schemas.validation import one_line

    try:
        return SkippedRecord.model_validate(fields)
    except ValidationError as error:
        raise InvalidRequestError(one_line(error, root="the record")) from None


def skips(*, env_file: EnvFile = None, flags: SetFlags = None, as_json: AsJson = False) -> None:
    """Show every record that was skipped: when, which, who and why.

    With --json: a list of what `headrace skip --json` prints, oldest first.
    """
    import asyncio

    from registry.skipped_records import SkippedRecords
    from streams.cli.output import console, print_json

    async def ask(database: Any) -> "list[SkippedRecord]":
        return await SkippedRecords(database).trail()

    rows = asyncio.run(with_database(command_settings(env_file, flags), ask))
    if as_json:
        print_json(rows)
        return
    screen = console()
    if not rows:
        screen.print("No record was skipped.")
        return
    from rich.table import Table

    from schemas.bounds import rfc3339

    table = Table(box=None, pad_edge=False)
    for heading in ("time", "record"):
        table.add_column(heading, no_wrap=True)
    for heading in ("group", "actor", "reason"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        place = f"{row.topic}/{row.partition}/{row.offset}"
        table.add_row(rfc3339(row.skipped_at), place, row.group_id, row.actor, row.reason)
    screen.print(table)

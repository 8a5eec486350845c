"""`headrace alerts`: show the firing alerts, show the rules in force, set rules."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.completion import complete_models
from streams.cli.input_files import MAX_UNKNOWN_FIELDS, InputFile, read_input
from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings
from streams.cli.promotion_execution import user_name
from streams.cli.registry_access import registered, with_database

if TYPE_CHECKING:
    from registry.alert_rules import RulesChange
    from schemas.alert_rules import GlobalRules, ModelRules
    from schemas.events import Alert

alerts = typer.Typer(name="alerts", no_args_is_help=False, rich_markup_mode=None)

RulesOf = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The model's name; without it, the global rules.",
        show_default=False,
        autocompletion=complete_models,
    ),
]


@alerts.callback(invoke_without_command=True)
def firing(
    context: typer.Context,
    *,
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Show firing alerts; read and set alert rules.

    The role monitor evaluates the rules, and writes firing and resolved alerts to predict-alerts. Models with
    rules of their own are listed. With --json: {"firing": [ALERT, ...],
    "rules": [{"scope", "model_name", "rules", "actor", "reason", "set_at"}, ...]}, where "scope" is "model" or
    "global" and "rules" has what differs from the defaults.
    """
    if context.invoked_subcommand is not None:
        return
    import asyncio

    from registry.alert_events import AlertEvents
    from registry.alert_rules import AlertRules
    from streams.cli.output import console, print_json

    async def ask(database: Any) -> "tuple[list[Alert], dict[str, RulesChange]]":
        return await AlertEvents(database).firing(), await AlertRules(database).in_force()

    firing_alerts, changes = asyncio.run(with_database(command_settings(env_file, flags), ask))
    if as_json:
        print_json(
            {
                "firing": [alert.model_dump(mode="json") for alert in firing_alerts],
                "rules": [_scoped(name) | _plain(change) for name, change in changes.items()],
            }
        )
        return
    screen = console()
    if firing_alerts:
        screen.print(_firing_table(firing_alerts))
    else:
        screen.print("Nothing fires.")
    for name, change in changes.items():
        line = f"{name or 'global'}: rules of {change.actor or 'an unknown user'}"
        reason = f", {change.reason}" if change.reason else ""
        screen.print(f"{line}{reason} (`headrace alerts rules {name}`)")


@alerts.command()
def rules(
    model_name: RulesOf = "", *, env_file: EnvFile = None, flags: SetFlags = None, as_json: AsJson = False
) -> None:
    """Show the rules in force, and who set them.

    Prints all rules as a file for `headrace alerts set`, and the earlier changes on standard error. With --json:
    {"scope", "model_name", "rules", "trail": [{"rules", "actor", "reason", "set_at"}, ...]}; "rules" of the
    trail are what differs from the defaults.
    """
    import asyncio

    from registry.alert_rules import AlertRules, read_rules
    from schemas.alert_rules import rules_class
    from schemas.bounds import rfc3339
    from streams.cli.output import print_json

    async def ask(database: Any) -> "list[RulesChange]":
        if model_name:
            await registered(database, model_name)
        return await AlertRules(database).trail(model_name)

    trail = asyncio.run(with_database(command_settings(env_file, flags), ask))
    whole = read_rules(trail[-1]) if trail else rules_class(model_name)()
    if as_json:
        document = _scoped(model_name) | {"rules": whole.model_dump(mode="json")}
        print_json(document | {"trail": [_plain(change) for change in trail]})
        return
    print(whole.model_dump_json(indent=2))
    for change in trail:
        line = " ".join(filter(None, (rfc3339(change.set_at), change.actor, change.reason)))
        print(line, file=sys.stderr)


@alerts.command("set")
def set_rules(
    model_name: RulesOf = "",
    *,
    file: InputFile,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit trail.")] = "",
    actor: Annotated[
        str,
        typer.Option(
            "--actor",
            metavar="NAME",
            default_factory=user_name,
            show_default="your user name",
            help="Who sets the rules.",
        ),
    ],
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Replace the rules of a model by those of a file.

    A rule that the file leaves out has its default; `{}` resets all. The monitors follow within seconds. With
    --json: {"scope", "model_name", "rules", "actor", "reason", "set_at"}.
    """
    import asyncio

    from registry.alert_rules import AlertRules
    from streams.cli.output import print_json

    given = _read(file, model_name)

    async def ask(database: Any) -> "RulesChange":
        if model_name:
            await registered(database, model_name)
        return await AlertRules(database).set(model_name, given, actor=actor, reason=reason)

    change = asyncio.run(with_database(command_settings(env_file, flags), ask))
    if as_json:
        print_json(_scoped(model_name) | _plain(change))
    else:
        print(f"set: the {f'rules of {model_name}' if model_name else 'global rules'} are these from now on")


def _read(file: Path, model_name: str) -> "ModelRules | GlobalRules":
    """Read the rules of a file; raises InvalidRequestError, which names each wrong value."""
    from pydantic import ValidationError

    from schemas.alert_rules import rules_class
    from schemas.errors import InvalidRequestError, MalformedRecordError
    from schemas.unknown_fields import unknown_fields
    from schemas.validation import one_line
    from schemas.wire import read_object

    content = read_input(file)
    try:
        document = read_object(content)
    except MalformedRecordError as error:
        raise InvalidRequestError(f"{file}: {error}") from None
    if unknown := unknown_fields(rules_class(model_name), document):
        raise InvalidRequestError(f"{file}: {'; '.join(unknown[:MAX_UNKNOWN_FIELDS])}")
    try:
        return rules_class(model_name).model_validate_json(content)
    except ValidationError as error:
        raise InvalidRequestError(f"{file}: {one_line(error, root='the file', max_problems=5)}") from None


def _firing_table(alerts: "list[Alert]") -> Any:
    from rich.table import Table

    from schemas.bounds import rfc3339
    from streams.monitoring.alert_text import format_alert

    table = Table(box=None, pad_edge=False)
    for heading in ("since", "severity", "rule"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what", overflow="fold")
    for alert in alerts:
        table.add_row(rfc3339(alert.at), alert.severity, alert.rule, format_alert(alert))
    return table


def _scoped(model_name: str) -> dict[str, Any]:
    from schemas.alert_rules import scope_of

    return {"scope": scope_of(model_name), "model_name": model_name}


def _plain(change: "RulesChange") -> dict[str, Any]:
    from schemas.bounds import rfc3339

    return {
        "rules": change.rules,
        "actor": change.actor,
        "reason": change.reason,
        "set_at": rfc3339(change.set_at),
    }

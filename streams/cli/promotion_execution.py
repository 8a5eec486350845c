"""How a verb that changes a model runs: shared options, the decision over Kafka or PostgreSQL, and its output."""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings

if TYPE_CHECKING:
    from schemas.models import PromotionEvent, PromotionResult
    from streams.clients.promotion_client import Decision
    from streams.config.settings import Settings

_DECISION = """
A control worker decides the event over Kafka; without a result within half a second, PostgreSQL decides it
directly. Exit code: 0 applied, 5 refused, 3 not reachable, or with --wait not served in time.
"""


# A rollback is not tried here: it is urgent, and workers keep its target loaded.
_TRIED = frozenset({"register", "canary", "split", "promote"})

Force = Annotated[
    bool,
    typer.Option("--force", help="Act although the version cannot be loaded, here or by the workers."),
]


def user_name() -> str:
    """The name of the user that runs this command, or ""."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # The user of a container may have no name.
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of every verb that changes a model."""

    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit trail.")] = ""
    actor: Annotated[
        str,
        typer.Option(
            "--actor",
            metavar="NAME",
            default_factory=user_name,
            show_default="your user name",
            help="Who decides this.",
        ),
    ]
    expected_revision: Annotated[
        int | None,
        typer.Option(
            "--expected-revision",
            metavar="REVISION",
            help="Refuse if the model is at another revision, because it changed since you looked.",
            show_default=False,
        ),
    ] = None
    direct: Annotated[bool, typer.Option("--direct", help="Write to PostgreSQL without trying Kafka.")] = (
        False
    )
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every live worker serves the result.")] = (
        False
    )
    timeout_seconds: Annotated[
        float,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0, help="Time to wait for a result, and for workers."
        ),
    ] = 10.0
    env_file: EnvFile = None
    flags: SetFlags = None
    as_json: AsJson = False


def promotion(fields_of: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """Make a verb of a function that returns its event's own fields.

    The action has the function's name, unless the fields have an `action`. A parameter `settings` of the
    function receives the command's settings. With a field `force` that is False, the versions are tried first.
    """
    own, shared = inspect.signature(fields_of), inspect.signature(Options)

    @functools.wraps(fields_of)
    def verb(**given: Any) -> None:
        options = Options(**{name: given.pop(name) for name in shared.parameters})
        settings = command_settings(options.env_file, options.flags)
        if "settings" in own.parameters:
            given["settings"] = settings
        _promote(settings, {"action": fields_of.__name__, **fields_of(**given)}, options)

    parameters = [
        *(each for name, each in own.parameters.items() if name != "settings"),
        *shared.parameters.values(),
    ]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    verb.__annotations__ = {each.name: each.annotation for each in parameters}
    verb.__doc__ = f"{inspect.getdoc(fields_of)}\n{_DECISION}"
    return verb


def _promote(settings: "Settings", fields: dict[str, Any], options: Options) -> None:
    """Have an event decided, print the result, and end with its exit code."""
    import asyncio
    import uuid

    from registry.registration import warnings_on
    from streams.cli.output import quiet_libraries
    from streams.promotions.events import make_event

    quiet_libraries(settings)
    why = {
        "reason": options.reason,
        "actor": options.actor,
        "expected_revision": options.expected_revision,
    }
    tries = fields["action"] in _TRIED and not fields.get("force", True)
    if fields["action"] == "register":
        # Whether it can be loaded is not the registry's question here.
        fields.pop("force", None)
    event = make_event({"event_id": str(uuid.uuid4()), **fields, **why})
    for warning in warnings_on(event.model) if event.model is not None else ():
        print(f"headrace: {warning}", file=sys.stderr)
    asyncio.run(_decide_and_print(settings, event, options, tries=tries))


async def _decide_and_print(
    settings: "Settings", event: "PromotionEvent", options: Options, *, tries: bool
) -> None:
    from streams.cli.failures import REFUSED
    from streams.cli.output import plain_warnings, print_json

    if tries:
        from streams.cli.preflight import preflight

        plain_warnings(settings)
        event = await preflight(settings, event)
    decided = await _decided(settings, event, options)
    result = decided.result
    document = result.model_dump(mode="json") | {"via": decided.via}
    if result.error is not None:
        if options.as_json:
            print_json(document)
        print(f"headrace: {result.error.code}: {result.error.message}", file=sys.stderr)
        raise typer.Exit(REFUSED)
    if not options.as_json:
        print(f"{'unchanged' if result.unchanged else 'applied'}: {_summary(result)}", flush=True)
    if options.wait:
        from streams.cli.wait_option import wait_for_workers

        await wait_for_workers(
            settings,
            result,
            timeout_seconds=options.timeout_seconds,
            document=document if options.as_json else None,
        )
    elif options.as_json:
        print_json(document)


async def _decided(settings: "Settings", event: "PromotionEvent", options: Options) -> "Decision":
    from streams.cli.output import plain_warnings
    from streams.clients.promotion_client import Decision, PromotionClient, apply_directly, send_hint

    def print_fallback(reason: str) -> None:
        print(f"headrace: {reason}; the event goes to PostgreSQL too", file=sys.stderr, flush=True)
        plain_warnings(settings)

    if options.direct:
        result = await apply_directly(settings, event, timeout_seconds=options.timeout_seconds)
        # After the decision: structlog is imported late, so that PostgreSQL decides sooner.
        plain_warnings(settings)
        await send_hint(settings, result)
        return Decision(result, "postgresql")
    async with PromotionClient(settings, on_fallback=print_fallback) as client:
        return await client.decide(event, timeout_seconds=options.timeout_seconds)


def _summary(result: "PromotionResult") -> str:
    from streams.cli.output import shares_of

    return f"{result.model_name} is at revision {result.revision}, {shares_of(result.route)}"

"""`headrace predict`: request predictions and wait for the responses."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings
from streams.cli.registry_access import Model, with_database

if TYPE_CHECKING:
    from rich.progress import Progress

    from schemas.events import JsonObject, PredictResponse
    from streams.cli.request_lines import Defaults
    from streams.clients.predict_client import Answer
    from streams.config.settings import Settings

ANSWERED_WITH_ERRORS = 4


@dataclass
class Counts:
    """How many requests were predicted, failed, and got no response."""

    predictions: int = 0
    errors: int = 0
    unanswered: int = 0

    @property
    def exit_code(self) -> int:
        """3 when a response is missing, else 4 when one has an error, else 0."""
        from streams.cli.failures import NOT_REACHABLE

        if self.unanswered:
            return NOT_REACHABLE
        return ANSWERED_WITH_ERRORS if self.errors else 0


def predict(
    model_name: Model,
    *,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="USER", help="The user's id; the user_id of a line is stronger."),
    ] = None,
    input_json: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="The input, a JSON object.")
    ] = None,
    deadline_ms: Annotated[
        int | None,
        typer.Option("--deadline-ms", metavar="MS", help="Time after which the answer is DEADLINE_EXCEEDED."),
    ] = None,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Time to wait for each response.")
    ] = 10.0,
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Request predictions and wait for the responses.

    With --input: one request. Prints the predictions, or the whole response with --json.

    Without: one request for each line of standard input, {"user_id": …, "input": {…}}, optionally with
    deadline_ms and request_id. Prints one response a line, in the order of the requests; a request without a
    response in time has the error code NO_RESPONSE. A line that cannot be read ends the command after the
    responses to the lines before it.

    Exit code: 0 all predicted, 4 all answered but some with an error, 3 some not answered in time.
    """
    import asyncio

    from streams.cli.output import quiet_libraries
    from streams.cli.request_lines import Defaults

    if input_json is None and sys.stdin.isatty():
        raise typer.BadParameter("give --input JSON, or JSON lines on standard input")
    if input_json is not None and user is None:
        raise typer.BadParameter("--input needs --user")
    settings = command_settings(env_file, flags)
    quiet_libraries(settings)
    defaults = Defaults(model_name, user, deadline_ms)
    if input_json is None:
        counts = asyncio.run(_predict_lines(settings, defaults, timeout_seconds))
    else:
        counts = asyncio.run(
            _predict_one(settings, defaults, input_json, timeout_seconds=timeout_seconds, as_json=as_json)
        )
    raise typer.Exit(counts.exit_code)


async def _predict_one(
    settings: "Settings", defaults: "Defaults", input_json: str, *, timeout_seconds: float, as_json: bool
) -> Counts:
    from schemas.errors import InvalidRequestError, MalformedRecordError, VersionOverloadedError
    from schemas.wire import read_object
    from streams.cli.output import print_json
    from streams.clients.predict_client import PredictClient

    try:
        document = read_object(input_json.encode(errors="surrogateescape"))
    except MalformedRecordError as error:
        raise InvalidRequestError(f"--input: {error}") from None
    async with PredictClient(settings) as client:
        try:
            response = await client.predict(
                defaults.model_name,
                user_id=defaults.user_id or "",
                input=document,
                deadline_ms=defaults.deadline_ms,
                timeout_seconds=timeout_seconds,
            )
        except VersionOverloadedError as error:
            response = error.response
    if as_json:
        print_json(_document(response))
    elif response.error is None:
        print_json(response.predictions)
    if sys.stderr.isatty() or response.error is not None:
        print("\n".join(_summary(response)), file=sys.stderr)
    if response.error is not None and response.error.code == "UNKNOWN_MODEL":
        await _print_near_name(settings, defaults.model_name)
    return Counts(predictions=response.error is None, errors=response.error is not None)


async def _print_near_name(settings: "Settings", model_name: str) -> None:
    """Print the nearest registered name, if PostgreSQL can be asked; predictions need none."""
    from contextlib import suppress

    from schemas.errors import HeadraceError, UnknownModelError
    from streams.cli.registry_access import registered

    with suppress(HeadraceError):
        try:
            await with_database(settings, lambda database: registered(database, model_name))
        except UnknownModelError as error:
            print(f"headrace: {error}", file=sys.stderr)


async def _predict_lines(settings: "Settings", defaults: "Defaults", timeout_seconds: float) -> Counts:
    from streams.cli.output import print_json
    from streams.cli.request_lines import count_lines, parse_lines, read_lines
    from streams.clients.predict_client import PredictClient

    counts = Counts()
    descriptor = sys.stdin.fileno()
    with _progress() as progress:
        task = progress.add_task("answered", total=count_lines(descriptor))
        async with PredictClient(settings) as client:
            requests = parse_lines(read_lines(descriptor), defaults)
            async for answer in client.predict_many(requests, timeout_seconds=timeout_seconds):
                print_json(_line(answer, counts))
                progress.advance(task)
    if sys.stderr.isatty():
        print(
            f"{counts.predictions} predicted, {counts.errors} answered with an error, "
            f"{counts.unanswered} not answered",
            file=sys.stderr,
        )
    return counts


def _line(answer: "Answer", counts: Counts) -> "JsonObject":
    from schemas.errors import ResponseTimeoutError, VersionOverloadedError
    from schemas.events import PredictResponse

    if isinstance(answer, VersionOverloadedError):
        answer = answer.response
    if isinstance(answer, PredictResponse):
        counts.predictions += answer.error is None
        counts.errors += answer.error is not None
        return _document(answer)
    counts.unanswered += 1
    named = {"request_id": answer.request_id} if isinstance(answer, ResponseTimeoutError) else {}
    return named | {"error": {"code": "NO_RESPONSE", "message": str(answer)}}


def _document(response: "PredictResponse") -> "JsonObject":
    # Unset fields stay absent: a response has either predictions or an error.
    return response.model_dump(mode="json", exclude_unset=True)


def _summary(response: "PredictResponse") -> list[str]:
    version = response.model_version or "no version"
    stale = ", from a route that may be old" if response.stale else ""
    answered = f"{version}, revision {response.revision}{stale}: {response.latency_ms:g} ms in the worker"
    if response.error is None:
        return [f"{answered}, {'cached' if response.cached else 'computed'}"]
    details = [f"  {detail.path or '/'}: {detail.message}" for detail in response.error.details]
    return [f"{response.error.code}: {response.error.message}", *details, answered]


def _progress() -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from streams.cli.output import console

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(to_stderr=True),
        # Responses on the same terminal show the progress themselves.
        disable=not sys.stderr.isatty() or sys.stdout.isatty(),
        transient=True,
        # Otherwise rich prints the responses above the bar, as if they were messages.
        redirect_stdout=False,
        redirect_stderr=False,
    )

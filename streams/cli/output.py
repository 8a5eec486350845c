"""Results on standard output: tables for people, one JSON document a line for programs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from streams.settings import Settings

PIPED_COLUMNS = 240


def print_json(document: Any) -> None:
    """Print one JSON document as one line, at once, so that a pipe gets it while the verb runs on.

    Takes what orjson takes, and pydantic models.
    """
    import orjson

    print(orjson.dumps(document, default=_plain).decode(), flush=True)


def console(*, to_stderr: bool = False) -> "Console":
    """A rich console: colours only on a terminal, full width elsewhere, no markup in users' names."""
    import sys

    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    return Console(
        file=stream, markup=False, highlight=False, width=None if stream.isatty() else PIPED_COLUMNS
    )


def quiet_libraries(settings: "Settings") -> None:
    """Keep what libraries log off the terminal of a verb that tells its own errors, unless debugging."""
    import logging

    if settings.log_level == "debug":
        from streams.logs import configure_logging

        configure_logging(level="debug", log_format=settings.log_format)
    else:
        logging.getLogger().addHandler(logging.NullHandler())


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json")

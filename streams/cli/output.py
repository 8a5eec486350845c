"""Results on standard output: tables for people, one JSON document a line for programs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from rich.console import Console

    from streams.config.settings import Settings

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
        from streams.process.logs import configure_logging

        configure_logging(level="debug", log_format=settings.log_format)
    else:
        logging.getLogger().addHandler(logging.NullHandler())


def plain_warnings(settings: "Settings") -> None:
    """Tell what our own modules warn of in a line on standard error, unless debugging tells it already.

    To be called before what logs is used; it imports structlog, which would write to standard output.
    """
    import logging
    import sys

    import structlog

    if settings.log_level != "debug":
        structlog.configure(
            processors=[_as_line],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )


def _as_line(_logger: Any, _method: str, event: "MutableMapping[str, Any]") -> str:
    reason = event.get("reason")
    return f"headrace: {event['event']}" + (f" ({reason})" if reason else "")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json")

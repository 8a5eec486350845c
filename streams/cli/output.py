"""How verbs write: results as tables or as JSON lines, and the warnings of libraries."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from rich.console import Console

    from streams.config.settings import Settings

PIPED_COLUMNS = 240


def print_json(document: Any) -> None:
    """Print one JSON document as one line, and flush, so that a pipe receives it while the verb runs on.

    `document` may hold pydantic models.
    """
    import orjson

    print(orjson.dumps(document, default=_plain).decode(), flush=True)


def console(*, to_stderr: bool = False) -> "Console":
    """A rich console: colours on a terminal only, `PIPED_COLUMNS` elsewhere, no markup in users' names."""
    import sys

    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    return Console(
        file=stream, markup=False, highlight=False, width=None if stream.isatty() else PIPED_COLUMNS
    )


def quiet_libraries(settings: "Settings") -> None:
    """Hide the log of libraries, because the verb reports its errors itself; log_level=debug shows it."""
    import logging

    if settings.log_level == "debug":
        from streams.process.logs import configure_logging

        configure_logging(level="debug", log_format=settings.log_format)
    else:
        logging.getLogger().addHandler(logging.NullHandler())


def plain_warnings(settings: "Settings") -> None:
    """Print the warnings of Headrace's own modules as lines on standard error; log_level=debug logs them anyway.

    Call it before the first log line: structlog writes to standard output otherwise.
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

"""How verbs write: results as tables or as JSON lines, in any encoding, and the warnings of libraries."""

import codecs
import io
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from rich.console import Console

    from schemas.models import Route
    from streams.config.settings import Settings

PIPED_COLUMNS = 240
_SUBSTITUTES = {
    **dict.fromkeys("▏▎▍", "."),
    **dict.fromkeys("█▉▊▋▌", "#"),
    "→": "->",
    "…": "...",
}
"""What stands for the characters of Headrace's own texts where the encoding of a stream has none of them."""


def write_in_any_encoding() -> None:
    """Let standard output and standard error write every text: what their encoding lacks gets a substitute or an escape."""
    codecs.register_error("headrace", _substituted)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="headrace")


def _substituted(error: UnicodeError) -> tuple[str | bytes, int]:
    """The handler of characters that cannot be encoded, as `codecs.register_error` wants it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if character in _SUBSTITUTES:
        return _SUBSTITUTES[character], error.start + 1
    only = UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    return codecs.backslashreplace_errors(only)


def print_json(document: Any) -> None:
    """Print one JSON document as one line, and flush, so that a pipe receives it while the verb runs on.

    `document` may hold pydantic models.
    """
    print(json_line(document), flush=True)


def json_line(document: Any) -> str:
    """The JSON of a document that standard output can write; other characters are escaped, as JSON does it."""
    import orjson

    text = orjson.dumps(document, default=_plain)
    if text.isascii() or codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8":
        return text.decode()
    import json

    return json.dumps(orjson.loads(text), separators=(",", ":"))


def cell(value: float | None, form: str) -> str:
    """PURE. A number in a table, or a dash where nothing was measured."""
    return "-" if value is None else format(value, form)


def console(*, to_stderr: bool = False) -> "Console":
    """A rich console: colours on a terminal only, `PIPED_COLUMNS` elsewhere, no markup in users' names."""
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    return Console(
        file=stream, markup=False, highlight=False, width=None if stream.isatty() else PIPED_COLUMNS
    )


def shares_of(route: "Route | None") -> str:
    """Each version's percentage of the users by a route."""
    from registry.routing import weights_of

    weights = weights_of(route) if route else {}
    shares = ", ".join(f"{version} {float(weight):g}%" for version, weight in weights.items())
    return shares or "nothing takes traffic yet"


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

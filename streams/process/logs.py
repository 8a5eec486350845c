"""Logs on standard error: one JSON object per line, or readable lines on a terminal.

One handler serves Headrace's loggers and those of the libraries (faust, aiokafka, redis …). A line has `timestamp`
(RFC 3339 UTC, milliseconds), `level`, `logger`, `event` and the fields of the call. Passwords in URLs are masked in
all lines.
"""

import json
import logging
import re
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

import orjson
import structlog

from schemas.bounds import rfc3339

if TYPE_CHECKING:
    from structlog.typing import Processor

CHATTY = (
    "aiokafka",
    "faust",
    "httpx",
    "mode",
    "streams.kafka.aiokafka_consumer",
    "streams.kafka.faust_app",
    "streams.kafka.batch_producer",
    "streams.kafka.transport",
)

_URL_PASSWORD = re.compile(r"(://[^\s:/@]*):[^\s@]+@")


def configure_logging(
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    log_format: Literal["auto", "json", "console"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Send all logs of this process to `stream` (standard error when None); may be called again."""
    target = stream or sys.stderr
    on_terminal = target.isatty()
    as_json = log_format == "json" or (log_format == "auto" and not on_terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _add_timestamp,
        structlog.processors.StackInfoRenderer(),
    ]
    rendering: list[Processor] = (
        [
            structlog.processors.format_exc_info,
            _mask_passwords,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=on_terminal), _mask_line]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for library in CHATTY:
        # Their info lines concern the libraries themselves; level debug shows them.
        logging.getLogger(library).setLevel(level.upper() if level in ("debug", "error") else "WARNING")
    logging.captureWarnings(capture=True)


def _add_timestamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["timestamp"] = rfc3339(datetime.now(UTC))
    return event


def _mask_passwords(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _masked(value)
    return event


def _mask_line(_logger: Any, _method: str, line: Any) -> str:
    # After rendering, because the console renderer adds the traceback.
    return _masked(line)


def _masked(text: str) -> str:
    return _URL_PASSWORD.sub(r"\1:***@", text) if "://" in text else text


def _to_json(event: Any, **_: Any) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except orjson.JSONEncodeError:
        # orjson refuses integers beyond 64 bits, lone surrogates and keys other than text; a log call must not fail.
        return json.dumps(event, default=str, skipkeys=True)

"""streams/process/logs.py: every logger ends in one stream of lines, and no password is in it."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from schemas.errors import SetupError
from streams.process.logs import CHATTY, configure_logging


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Logging is the process's: what a test configures goes with it."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    for library in CHATTY:
        logging.getLogger(library).setLevel(logging.NOTSET)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_ours_and_the_libraries_lines_have_one_form(stream: io.StringIO) -> None:
    """Structlog and stdlib loggers write the same JSON fields, with what the call added."""
    configure_logging(stream=stream)
    structlog.get_logger("headrace.worker").info("slice done", records=3)
    logging.getLogger("aiokafka").warning("lost %s", "a node", extra={"node": 7})
    ours, theirs = lines_of(stream)
    assert (ours["logger"], ours["level"], ours["event"]) == ("headrace.worker", "info", "slice done")
    assert ours["records"] == 3
    assert (theirs["logger"], theirs["level"], theirs["event"]) == ("aiokafka", "warning", "lost a node")
    assert theirs["node"] == 7
    assert all(line["timestamp"].endswith("Z") and len(line["timestamp"]) == 24 for line in (ours, theirs))


def test_the_level_holds_for_both(stream: io.StringIO) -> None:
    """Below the level nothing is written, whoever logs."""
    configure_logging(level="error", stream=stream)
    structlog.get_logger("headrace").warning("no")
    logging.getLogger("faust").warning("no")
    structlog.get_logger("headrace").error("yes")
    assert [line["event"] for line in lines_of(stream)] == ["yes"]


def test_libraries_talk_about_themselves_only_when_debugging(stream: io.StringIO) -> None:
    """At level info ours are heard, Kafka's client, httpx and Faust's producer are not, unless they warn."""
    for level in ("info", "debug"):
        configure_logging(level=level, stream=stream)
        structlog.get_logger("headrace").info(f"ours at {level}")
        for library in ("aiokafka.client", "httpx", "streams.kafka.batch_producer"):
            logging.getLogger(library).info("%s at %s", library, level)
    logging.getLogger("aiokafka").warning("theirs, a warning")
    told = [line["event"] for line in lines_of(stream)]
    assert told == [
        "ours at info",
        "ours at debug",
        "aiokafka.client at debug",
        "httpx at debug",
        "streams.kafka.batch_producer at debug",
        "theirs, a warning",
    ]


def test_configuring_twice_writes_once(stream: io.StringIO) -> None:
    """A second call replaces the first."""
    configure_logging(stream=stream)
    configure_logging(stream=stream)
    structlog.get_logger("headrace").info("once")
    assert len(lines_of(stream)) == 1


def test_passwords_in_urls_are_masked_everywhere(stream: io.StringIO) -> None:
    """In messages, in fields and in tracebacks, in both formats."""
    url = "redis://someone:hunter2@cache:6379/0"
    for log_format in ("json", "console"):
        configure_logging(log_format=log_format, stream=stream)
        structlog.get_logger("headrace").warning("cannot reach " + url, url=url)
        logging.getLogger("redis").warning("cannot reach %s", url)
        structlog.get_logger("headrace").error("failed", exc_info=SetupError(url))
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("someone:***@cache") >= 8


def test_what_json_cannot_say_is_written_as_text(stream: io.StringIO) -> None:
    """A log call never fails for what it was given."""
    configure_logging(log_format="json", stream=stream)
    structlog.get_logger("headrace").info("odd", value=object, huge=2**70, bad="\ud800", key={1: 2})
    (line,) = lines_of(stream)
    assert line["key"] == {"1": 2}


def test_readable_lines_without_colour_when_asked_for(stream: io.StringIO) -> None:
    """`console` in a file has no escape sequences."""
    configure_logging(log_format="console", stream=stream)
    structlog.get_logger("headrace").info("hello", n=1)
    assert "hello" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()

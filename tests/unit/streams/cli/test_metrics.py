"""streams/cli/metrics.py: where the figures begin."""

from datetime import UTC, datetime, timedelta

import pytest
from typer import BadParameter

from schemas.errors import InvalidRequestError
from streams.cli.metrics import first_window, read_beginning
from tests.unit.streams.monitoring.test_version_metrics import BEGIN, CHANGES


@pytest.mark.parametrize(
    ("text", "beginning"),
    [("90s", timedelta(seconds=90)), ("15m", timedelta(minutes=15)), ("30d", timedelta(days=30)), ("r4", 4)],
)
def test_a_beginning_is_a_span_or_a_revision(text: str, beginning: timedelta | int) -> None:
    """As the help shows them."""
    assert read_beginning(text) == beginning


@pytest.mark.parametrize("text", ["yesterday", "0s", "15", "r", "rx", "-5m", "r-1", ""])
def test_other_words_are_wrong_usage(text: str) -> None:
    """The message shows what may be written."""
    with pytest.raises(BadParameter, match="like r4"):
        read_beginning(text)


def test_figures_since_a_change_have_nothing_from_before_it() -> None:
    """The first whole window after the change, in the resolution of the span."""
    at = BEGIN + timedelta(minutes=40)
    for later, start, resolution_seconds in (
        (timedelta(minutes=5), at + timedelta(seconds=10), 10),
        (timedelta(hours=5), at + timedelta(minutes=1), 60),
        (timedelta(days=9), BEGIN + timedelta(hours=1), 3600),
    ):
        assert first_window("m", 5, CHANGES, at + later) == (start, resolution_seconds)
    now = datetime(2026, 11, 29, 12, 0, 7, tzinfo=UTC)
    assert first_window("m", timedelta(minutes=5), CHANGES, now) == (BEGIN - timedelta(minutes=5), 10)


def test_a_revision_that_does_not_exist_is_refused() -> None:
    """With those that do."""
    with pytest.raises(InvalidRequestError, match="no revision 6: it has 1 to 5"):
        first_window("m", 6, CHANGES, BEGIN)

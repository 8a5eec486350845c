"""Metrics of the role `log`."""

from collections.abc import Iterator

from streams.prediction_log.writer import Writer
from streams.prometheus import catalogue
from streams.prometheus.text_format import Part, labels, simple


class LogMetrics:
    """Reads the counts of a log worker."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def read(self) -> Iterator[Part]:
        writer = self._writer
        yield simple(
            catalogue.LOG_RESPONSES,
            [
                (labels(outcome=outcome), count)
                for outcome, count in (
                    ("written", writer.written),
                    ("repeat", writer.repeats),
                    ("unreadable", writer.unreadable),
                    ("not_kept", writer.not_kept),
                )
            ],
        )

"""What the roles `control` and `log` show."""

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from streams.control import Control
from streams.exposition.families import counter
from streams.prediction_log.writer import Writer


class ControlMetrics:
    """Reads what a control worker has decided."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def read(self) -> Iterator[Metric]:
        yield counter(
            "headrace_promotions",
            "Promotion events that this process decided, repeats too; an event that is none has no action.",
            [
                ({"action": action, "status": status}, count)
                for (action, status), count in sorted(self._control.decided.items())
            ],
        )


class LogMetrics:
    """Reads what a log worker has written."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def read(self) -> Iterator[Metric]:
        writer = self._writer
        yield counter(
            "headrace_log_responses",
            "Responses read for the prediction log, by what became of them.",
            [
                ({"outcome": outcome}, count)
                for outcome, count in (
                    ("written", writer.written),
                    ("repeat", writer.repeats),
                    ("unreadable", writer.unreadable),
                    ("not_kept", writer.not_kept),
                )
            ],
        )

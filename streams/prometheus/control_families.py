"""What the roles `control` and `log` show."""

from collections.abc import Iterator

from streams.prediction_log.writer import Writer
from streams.prometheus.text_format import Part, counter, labels
from streams.promotions.control import Control


class ControlMetrics:
    """Reads what a control worker has decided."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def read(self) -> Iterator[Part]:
        yield counter(
            "headrace_promotions_total",
            "Promotion events that this process decided, repeats too; an event that is none has no action.",
            [
                (labels(action=action, status=status), count)
                for (action, status), count in sorted(self._control.decided.items())
            ],
        )


class LogMetrics:
    """Reads what a log worker has written."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def read(self) -> Iterator[Part]:
        writer = self._writer
        yield counter(
            "headrace_log_responses_total",
            "Responses read for the prediction log, by what became of them.",
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

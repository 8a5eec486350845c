"""Metrics of the role `control`."""

from collections.abc import Iterator

from streams.prometheus import catalogue
from streams.prometheus.text_format import Part, labels, simple
from streams.promotions.control import Control


class ControlMetrics:
    """Reads the decisions of a control worker."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def read(self) -> Iterator[Part]:
        yield simple(
            catalogue.PROMOTIONS,
            [
                (labels(action=action, status=status), count)
                for (action, status), count in sorted(self._control.decided.items())
            ],
        )

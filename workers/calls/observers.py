"""What the dispatcher of a version tells of its calls, and what may hold them back."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from workers.calls.callers import Outcome


class Meter(Protocol):
    """Counts what happens between a version and its backend."""

    def called(self, batch_size: int, seconds: float) -> None:
        """Called after each batch, with the duration of its calls, whatever their outcome."""
        ...

    def breaker_opened(self) -> None:
        """Called when the breaker opens."""
        ...


class CallTracer(Protocol):
    """Traces the calls of one version. The dispatcher passes a caller's trace context through unread."""

    def current(self) -> Any:
        """The trace context of the running task."""
        ...

    def call(
        self, callers: Sequence[Any], batch_size: int
    ) -> AbstractContextManager[Callable[[Sequence[Outcome]], None]]:
        """A span around one batch; `callers` are trace contexts. Its value is called with the outcomes."""
        ...


class Gate(Protocol):
    """Says whether calls may begin now."""

    @property
    def is_open(self) -> bool: ...
    def when_open(self, call: Callable[[], None]) -> None:
        """Call once when it is open again."""
        ...

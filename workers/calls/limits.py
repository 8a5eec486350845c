"""PURE. What a dispatcher learns about its backend: the calls in flight, and the examples and bytes of each call."""

from workers.calls import batch_size, call_bytes, concurrency


class Limits:
    """The limits of one dispatcher; `max_batch`, `max_calls` and `timeout_seconds` are their declared bounds."""

    def __init__(self, *, max_batch: int, max_calls: int, timeout_seconds: float) -> None:
        self._max_batch = max_batch
        self._max_calls = max_calls
        self._timeout_seconds = timeout_seconds
        self._concurrency = concurrency.capped(concurrency.Concurrency(), max_calls)
        self._batch_size = batch_size.capped(batch_size.BatchSize(), max_batch)
        self._call_bytes = call_bytes.CallBytes()

    @property
    def calls(self) -> int:
        """The number of calls that may be in flight."""
        return self._concurrency.calls

    @property
    def examples(self) -> int:
        """The number of examples that a call may have."""
        return self._batch_size.limit

    @property
    def size_bytes(self) -> int:
        """The number of bytes that the inputs of a call may have."""
        return self._call_bytes.limit

    @property
    def is_probing(self) -> bool:
        """True while the next full batch must be alone at the server."""
        return self._batch_size.is_probing

    def base_rtt(self, count: int) -> float | None:
        """The seconds of a call with `count` examples without queueing; None before the first call."""
        return self._concurrency.base_rtt(count)

    def least_wait_seconds(self, waiting: int) -> float:
        """The least time to the outcome of an example behind `waiting` others.

        0 while they fill no batch, and while the limits are still learned: they may rise soon.
        """
        slow_start = self._concurrency.slow_start and self.calls < self._max_calls
        rtt_seconds = self.base_rtt(self.examples)
        batches = waiting // self.examples
        if not batches or self.is_probing or slow_start or rtt_seconds is None:
            return 0.0
        return rtt_seconds * (1 + batches / self.calls)

    def succeeded(self, count: int, seconds: float, *, in_flight: int, now: float) -> None:
        """Learn from a call with `count` examples; `in_flight` calls were there, this one included."""
        self._concurrency = concurrency.on_success(
            self._concurrency,
            batch_size=count,
            rtt_seconds=seconds,
            in_flight=in_flight,
            max_calls=self._max_calls,
            timeout_seconds=self._timeout_seconds,
            now=now,
            single=self._max_batch == 1,
        )
        self._batch_size = batch_size.on_success(
            self._batch_size,
            batch_size=count,
            seconds=seconds,
            is_alone=in_flight == 1,
            now=now,
            timeout_seconds=self._timeout_seconds,
            max_batch=self._max_batch,
        )
        self._call_bytes = call_bytes.on_success(self._call_bytes, now)

    def timed_out(self, count: int, *, in_flight: int, started: float, now: float) -> None:
        """Learn from a call with `count` examples, more than one, that took too long."""
        # Of several calls that time out together, one counts.
        if count <= self._batch_size.limit:
            if in_flight > 1:
                self._concurrency = concurrency.on_failure(self._concurrency, started=started, now=now)
            self._batch_size = batch_size.on_timeout(self._batch_size, count)

    def too_large(self, count: int, size_bytes: int, now: float) -> None:
        """Learn from a call with `count` examples of `size_bytes` that was too large."""
        self._call_bytes = call_bytes.on_too_large(
            self._call_bytes, batch_size=count, size_bytes=size_bytes, now=now
        )

    def unavailable(self, *, started: float, now: float) -> None:
        """Learn from a call without an answer, or one that was refused as overload."""
        self._concurrency = concurrency.on_failure(self._concurrency, started=started, now=now)

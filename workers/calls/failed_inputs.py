"""PURE memory of inputs that failed by themselves, so that a repeated one is answered without a call.

An input counts from its second failure, since the first may have been chance: a server that broke off a response, for
example. The memory is bounded in number and time: the newest are kept, for `KEPT_SECONDS`. Times are seconds of one
monotonic clock, passed in as `now`.
"""

from collections.abc import Sequence

from schemas.errors import BackendFailedError

KEPT_SECONDS = 60.0
MAX_INPUTS = 10_000


class FailedInputs:
    """Errors by the digest of their input."""

    def __init__(self) -> None:
        # In order of their end; the error is None after the first failure.
        self._errors: dict[bytes, tuple[float, BackendFailedError | None]] = {}

    def __bool__(self) -> bool:
        return bool(self._errors)

    def add(self, digest: bytes, error: BackendFailedError, now: float) -> None:
        is_second = self._errors.pop(digest, None) is not None
        self._errors[digest] = (now + KEPT_SECONDS, error if is_second else None)
        if len(self._errors) > MAX_INPUTS:
            del self._errors[next(iter(self._errors))]

    def find(self, digests: Sequence[bytes], now: float) -> dict[int, BackendFailedError]:
        """The errors of those inputs that failed twice lately, by their index."""
        for digest, (end, _) in list(self._errors.items()):
            if end > now:
                break
            del self._errors[digest]
        found: dict[int, BackendFailedError] = {}
        for index, digest in enumerate(digests):
            _, error = self._errors.get(digest, (now, None))
            if error is not None:
                found[index] = error
        return found

"""PURE. Which requests may wait for a version, and what waits: a bulkhead between the versions of a worker.

A version may declare how many requests, or how many bytes of requests, may wait for it in one worker. One beyond
that is refused at once with OVERLOADED. A request that the version cannot answer before its deadline is refused at
once too, instead of after the deadline.

A request waits from its admission to its response. Sizes are those of its record's value.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.errors import AnswerError, DeadlineOutOfReachError, OverloadedError
from streams.serving.requests import RequestContext, Requests
from streams.serving.route_table import ServedVersion

Refusals = Mapping[RequestContext, AnswerError]
"""The requests that are not admitted, each with its error."""


@dataclass(slots=True, eq=False)
class Held:
    """What waits for one version."""

    requests: int = 0
    size_bytes: int = 0


class Bulkhead:
    """The requests that wait for each version of this worker."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Held] = {}

    def admit(self, requests: Requests, now_unix_ms: float) -> dict[ServedVersion, Refusals]:
        """Remove the requests that may not wait for their version, and return them with their errors.

        The others are to `enter` before this is called again.
        """
        refused: dict[ServedVersion, Refusals] = {}
        for version, of_version in requests.items():
            errors = self._refusals(version, of_version, now_unix_ms)
            if errors:
                refused[version] = errors
        for version, errors in refused.items():
            requests[version] = [request for request in requests[version] if request not in errors]
        return refused

    def enter(self, version: ServedVersion, requests: Sequence[RequestContext]) -> None:
        """Count admitted requests as waiting for a version."""
        self._count(version, requests, 1)

    def leave(self, version: ServedVersion, requests: Collection[RequestContext]) -> None:
        """Count requests that have entered as waiting no more."""
        self._count(version, requests, -1)

    def waiting(self, model_name: str, version: str) -> int:
        """How many requests wait for a version."""
        held = self._held.get((model_name, version))
        return 0 if held is None else held.requests

    def _refusals(
        self, version: ServedVersion, requests: Sequence[RequestContext], now_unix_ms: float
    ) -> Refusals:
        refused: dict[RequestContext, AnswerError] = {}
        least_wait_seconds = version.dispatcher.least_wait_seconds()
        if least_wait_seconds:
            refused |= _out_of_reach(version, requests, now_unix_ms, least_wait_seconds)
        if version.limits_waiting:
            patient = [request for request in requests if request not in refused] if refused else requests
            refused |= _overload(version, patient, self._held_by(version))
        return refused

    def _count(self, version: ServedVersion, requests: Collection[RequestContext], sign: int) -> None:
        held = self._held_by(version)
        held.requests += sign * len(requests)
        if version.spec.max_waiting_bytes is not None:
            held.size_bytes += sign * _size_bytes(requests)

    def _held_by(self, version: ServedVersion) -> Held:
        # Not by the version itself: a newer table may have another object for it.
        return self._held.setdefault((version.model_name, version.spec.version), Held())


def _out_of_reach(
    version: ServedVersion,
    requests: Sequence[RequestContext],
    now_unix_ms: float,
    least_wait_seconds: float,
) -> dict[RequestContext, AnswerError]:
    """The requests whose deadline comes before a call for them can end."""
    earliest_unix_ms = now_unix_ms + least_wait_seconds * 1000
    late = [
        request
        for request in requests
        if request.deadline_unix_ms is not None and request.deadline_unix_ms < earliest_unix_ms
    ]
    if not late:
        return {}
    message = f"deadline_ms cannot be met: requests wait at least {least_wait_seconds:.3g} s for {version.spec.version} now"
    return dict.fromkeys(late, DeadlineOutOfReachError(message))


def _overload(
    version: ServedVersion, requests: Sequence[RequestContext], held: Held
) -> dict[RequestContext, AnswerError]:
    """The requests beyond the declared limits; the first ones are admitted."""
    spec = version.spec
    admitted = len(requests)
    if spec.max_waiting is not None:
        admitted = min(admitted, max(0, spec.max_waiting - held.requests))
    if spec.max_waiting_bytes is not None:
        room_bytes = spec.max_waiting_bytes - held.size_bytes
        for at, request in enumerate(requests[:admitted]):
            room_bytes -= _size_bytes([request])
            if room_bytes < 0:
                admitted = at
                break
    if admitted == len(requests):
        return {}
    error = OverloadedError(f"as many requests wait for {spec.version} as it allows; try again later")
    return dict.fromkeys(requests[admitted:], error)


def _size_bytes(requests: Iterable[RequestContext]) -> int:
    return sum(len(request.record.value or b"") for request in requests)

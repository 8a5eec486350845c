"""PURE queue that forms batches from the inputs that wait for one model.

No timer delays a batch: it goes as soon as a call may be made, with all inputs that wait then, up to
`max_batch` examples and `max_bytes`. An idle server is called at once, and batches grow with the load. Callers whose
deadline has passed or that were cancelled are left out; the rest of the batch is unaffected. Inputs whose
batch took too long or was too large come back to the front; those of too long a batch then go in calls of `most` examples, by themselves.

Times are seconds of one monotonic clock, passed in as `now`.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from schemas.events import JsonObject

Settled = tuple[int, Sequence[Any]]
"""The outcomes of consecutive inputs of one caller, after the index of the first of them."""

_DROPPED: JsonObject = {}


@dataclass(slots=True, eq=False)
class Caller:
    """One caller's inputs, the size and digest of each, the outcomes that it has not taken, and the number of inputs without one.

    An input is dropped when it has its outcome: the rest of a large caller may wait for long.
    """

    inputs: list[JsonObject]
    deadline_loop_seconds: float
    sizes_bytes: Sequence[int]
    digests: Sequence[bytes] = ()
    size_bytes: int = field(init=False)
    settled: list[Settled] = field(default_factory=list)
    unsettled: int = field(init=False)
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.size_bytes = sum(self.sizes_bytes)
        self.unsettled = len(self.inputs)

    def settle(self, start: int, outcomes: Sequence[Any]) -> None:
        """Add the outcomes of the inputs from `start`."""
        count = len(outcomes)
        self.settled.append((start, outcomes))
        self.unsettled -= count
        if self.unsettled:
            self.inputs[start : start + count] = [_DROPPED] * count

    def take_settled(self) -> list[Settled]:
        """Remove and return the outcomes that came since the last time."""
        settled, self.settled = self.settled, []
        return settled


@dataclass(frozen=True, slots=True)
class Part:
    """The inputs `start` to `stop` (exclusive) of a caller.

    After a call that took too long: `most` is how many of them go in one call, without others; `late_calls` counts those
    in which an input was alone.
    """

    caller: Caller
    start: int
    stop: int
    most: int | None = None
    late_calls: int = 0

    @property
    def inputs(self) -> Sequence[JsonObject]:
        whole = self.caller.inputs
        return whole if self.stop - self.start == len(whole) else whole[self.start : self.stop]

    @property
    def size_bytes(self) -> int:
        caller = self.caller
        if self.stop - self.start == len(caller.inputs):
            return caller.size_bytes
        return sum(caller.sizes_bytes[self.start : self.stop])

    def fitting(self, examples: int, size_bytes: float) -> int:
        """How many of the inputs, from the first, have at most so many bytes; up to `examples`."""
        if self.stop - self.start <= examples and self.size_bytes <= size_bytes:
            return self.stop - self.start
        sizes = self.caller.sizes_bytes[self.start : min(self.stop, self.start + examples)]
        if sum(sizes) <= size_bytes:
            return len(sizes)
        return bisect_right(list(accumulate(sizes)), size_bytes)


class BatchQueue:
    """Waiting inputs in order of arrival; the first caller may have only the rest of its inputs here."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self._first_deadline = math.inf

    def __bool__(self) -> bool:
        return bool(self._parts)

    def holds(self, count: int) -> bool:
        """True when at least `count` inputs wait, those of cancelled callers included."""
        for part in self._parts:
            count -= part.stop - part.start
            if count <= 0:
                return True
        return False

    @property
    def examples(self) -> int:
        """The number of inputs that wait, those of cancelled callers included."""
        return sum(part.stop - part.start for part in self._parts)

    def add(self, caller: Caller, without: Iterable[int] = ()) -> None:
        """Add the inputs of a caller, but those at the indices `without`, which are in order."""
        start = 0
        for index in (*without, len(caller.inputs)):
            if start < index:
                self._parts.append(Part(caller, start, index))
            start = index + 1
        self._first_deadline = min(self._first_deadline, caller.deadline_loop_seconds)

    def take(self, max_batch: int, max_bytes: float) -> list[Part]:
        """Remove and return the next batch: the oldest inputs, at most `max_batch` and `max_bytes`, or one input."""
        batch: list[Part] = []
        room, room_bytes = max_batch, max_bytes
        while room and self._parts:
            if batch and self._parts[0].most is not None:
                break
            part = self._parts.popleft()
            if part.caller.cancelled:
                continue
            if part.most is not None:
                room = min(room, part.most)
            count = part.fitting(room, room_bytes)
            if not count and not batch:
                # One that is larger than the limit goes alone.
                count = room = 1
            middle = part.start + count
            if middle < part.stop:
                self._parts.appendleft(replace(part, start=middle))
                if not count:
                    break
                part = replace(part, stop=middle)
            batch.append(part)
            if part.most is not None:
                break
            room -= count
            room_bytes -= part.size_bytes
        return batch

    def put_back(self, parts: Sequence[Part]) -> None:
        """Put parts of a batch at the front again, in their order."""
        self._parts.extendleft(reversed(parts))
        for part in parts:
            self._first_deadline = min(self._first_deadline, part.caller.deadline_loop_seconds)

    def drop_late(self, now: float) -> list[Part]:
        """Remove and return the inputs of callers whose deadline has passed."""
        if now < self._first_deadline:
            return []
        waiting, self._parts = self._parts, deque()
        late = []
        self._first_deadline = math.inf
        for part in waiting:
            if part.caller.deadline_loop_seconds <= now:
                late.append(part)
            else:
                self._parts.append(part)
                self._first_deadline = min(self._first_deadline, part.caller.deadline_loop_seconds)
        return late

    def take_all(self) -> list[Part]:
        """Remove and return everything, cancelled callers included."""
        parts, self._parts = list(self._parts), deque()
        return parts

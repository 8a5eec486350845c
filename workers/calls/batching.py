"""PURE rule that makes batches of what waits for one model.

Nothing waits for company: a batch goes as soon as a call may be made, with all that waits by then, up
to `max_batch` examples. So an idle server is called at once with what there is, and the busier it
is, the fuller are the batches; no timer adds to the latency. A caller whose deadline has passed, or who
has gone, is left out, which changes nothing for the others of the batch.

Times are seconds of any one monotonic clock, handed in as `now`.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.events import JsonObject


@dataclass(slots=True, eq=False)
class Caller:
    """One caller's inputs, in `outcomes` what became of each, and how many are not settled."""

    inputs: Sequence[JsonObject]
    deadline_loop_seconds: float
    outcomes: list[Any] = field(init=False)
    unsettled: int = field(init=False)
    gone: bool = False

    def __post_init__(self) -> None:
        self.unsettled = len(self.inputs)
        self.outcomes = [None] * self.unsettled

    def settle(self, start: int, outcomes: Sequence[Any]) -> bool:
        """Put in what became of some of the inputs; True when these were the last."""
        self.outcomes[start : start + len(outcomes)] = outcomes
        self.unsettled -= len(outcomes)
        return self.unsettled == 0


@dataclass(frozen=True, slots=True)
class Part:
    """The inputs of a caller from `start` to `stop`."""

    caller: Caller
    start: int
    stop: int

    @property
    def inputs(self) -> Sequence[JsonObject]:
        whole = self.caller.inputs
        return whole if self.stop - self.start == len(whole) else whole[self.start : self.stop]


class BatchQueue:
    """Callers in the order of their arrival, the first perhaps with a part of its inputs only."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self._first_deadline = math.inf

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, caller: Caller) -> None:
        self._parts.append(Part(caller, 0, len(caller.inputs)))
        self._first_deadline = min(self._first_deadline, caller.deadline_loop_seconds)

    def take(self, max_batch: int) -> list[Part]:
        """The next batch: the oldest inputs, at most `max_batch`."""
        batch: list[Part] = []
        room = max_batch
        while room and self._parts:
            part = self._parts.popleft()
            if part.caller.gone:
                continue
            count = part.stop - part.start
            if count > room:
                middle = part.start + room
                self._parts.appendleft(Part(part.caller, middle, part.stop))
                part, count = Part(part.caller, part.start, middle), room
            batch.append(part)
            room -= count
        return batch

    def drop_late(self, now: float) -> list[Part]:
        """Take out those for whom an answer would come too late."""
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
        parts, self._parts = list(self._parts), deque()
        return parts

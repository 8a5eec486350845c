"""PURE rule for how many calls one model server gets at once, learnt from how long they take.

More calls than a server works on at once only wait there, where they can be neither batched nor given
up. What waits shows in the latency: of `calls` in flight, about `calls * (1 - usual / seconds)` do.
While that is little, one more call is tried each round; when it is much, one less. A call that
failed halves the number. This is the rule of TCP Vegas (Brakmo and Peterson 1995), with the halving of
AIMD; `usual` is the latency of a call that had the server to itself, one for each power of two of
the batch's size.

Where a call has one example, there are no batches to make of what waits here, but a server may make
batches of the calls that it has: it works faster the more they are, and each takes longer all the same.
So nothing is read from their latency: such a server gets all that are allowed, until calls fail.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# Calls that wait at the server, and as a part of all: below the first pair another is tried, above the
# second one less. The parts are because latencies scatter.
FEW_WAITING, FEW_PART = 2.0, 0.3
MANY_WAITING, MANY_PART = 4.0, 0.5
_SMOOTHING = 0.3


@dataclass(frozen=True, slots=True)
class Concurrency:
    """`level` is the number of calls, with the part of the next one that was earned so far."""

    level: float = 4.0
    usual_seconds: Mapping[int, float] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return int(self.level)

    def usual(self, batch_size: int) -> float | None:
        """How long a call with such a batch takes a server that has nothing else to do, in seconds."""
        return self.usual_seconds.get(batch_size.bit_length())


def limited(state: Concurrency, max_calls: int) -> Concurrency:
    return state if state.level <= max_calls else replace(state, level=float(max_calls))


def answered(
    state: Concurrency,
    *,
    batch_size: int,
    seconds: float,
    in_flight: int,
    max_calls: int,
    single: bool = False,
) -> Concurrency:
    """After an answer that took so long, with so many calls in flight, itself among them.

    `single` says that a call never has more than one example.
    """
    usual = state.usual(batch_size)
    if usual is None:
        usual = seconds
    elif seconds < usual or in_flight == 1:
        usual += _SMOOTHING * (seconds - usual)
    level = state.level
    waiting = level * (1 - usual / seconds) if seconds > usual and not single else 0.0
    if waiting > max(MANY_WAITING, MANY_PART * level):
        level = max(1.0, level - 1 / level)
    elif waiting < max(FEW_WAITING, FEW_PART * level) and in_flight >= state.calls:
        level = min(float(max_calls), level + 1 / level)
    return Concurrency(level, {**state.usual_seconds, batch_size.bit_length(): usual})


def failed(state: Concurrency) -> Concurrency:
    """After a call that was not answered, or refused as one too many."""
    return replace(state, level=max(1.0, state.level / 2))

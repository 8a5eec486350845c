"""PURE concurrency limit for one model server, learned from the latency of its calls.

More calls than a server executes in parallel only wait in its queue, where Headrace can neither batch
nor abandon them. Queueing shows in the latency: of `limit` calls in flight, about
`limit * (1 - base_rtt / rtt)` wait. While few calls wait, the limit grows by one each round trip; when
many wait, it shrinks by one. A failed call halves it. Until calls wait or fail for the first time, the
limit doubles each round trip (slow start). Calls that wait must not come near their timeout: where they
do, none may be added, those that wait are taken away, and a number of calls that failed is not tried again for a
while. The rule is TCP Vegas (Brakmo and Peterson 1995)
with the multiplicative decrease of AIMD. `base_rtt` is the latency of a call without queueing, kept
for each power of two of the batch size.

A server that gets one example in each call may batch the calls by itself: its throughput grows with
the number of calls, and so does the latency of each. Latency says nothing about queueing there, so such
a server gets the maximum until calls fail.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# Numbers of waiting calls, absolute and as a fraction of the limit; the larger one of a pair counts. Below FEW the
# limit grows, above MANY it shrinks. The fractions tolerate the variance of latencies.
FEW_WAITING, FEW_FRACTION = 2.0, 0.3
MANY_WAITING, MANY_FRACTION = 4.0, 0.5
# Shares of the timeout above which no call may be added that waits, and above which one that waits is too many.
LONG, LONGEST = 1 / 4, 1 / 2
NONE_WAITING = 0.5
RENEWAL_SECONDS = 60.0
_SMOOTHING = 0.3


@dataclass(frozen=True, slots=True)
class Concurrency:
    """`limit` is the number of calls in flight; its fraction is progress towards the next call.

    `slow_start` until calls wait or fail for the first time. For a while after `failed_at` long calls stay below
    `failed_calls`, the number at the last failure. `base_rtt_seconds` has the latency without queueing by the bit length of the batch size.
    """

    limit: float = 2.0
    base_rtt_seconds: Mapping[int, float] = field(default_factory=dict)
    slow_start: bool = True
    failed_calls: int = 0
    failed_at: float = -math.inf

    @property
    def calls(self) -> int:
        """The number of calls that may be in flight."""
        return int(self.limit)

    def base_rtt(self, batch_size: int) -> float | None:
        """The latency in seconds of a call with this batch size without queueing; None before the first call."""
        return self.base_rtt_seconds.get(batch_size.bit_length())


def capped(state: Concurrency, max_calls: int) -> Concurrency:
    """The state with a limit of at most `max_calls`."""
    return state if state.limit <= max_calls else replace(state, limit=float(max_calls))


def on_success(
    state: Concurrency,
    *,
    batch_size: int,
    rtt_seconds: float,
    in_flight: int,
    max_calls: int,
    timeout_seconds: float,
    now: float,
    single: bool = False,
) -> Concurrency:
    """The state after a call that succeeded in `rtt_seconds`.

    `in_flight` is the number of calls in flight, this one included. `single`: each call has one example.
    """
    base_rtt = state.base_rtt(batch_size)
    if base_rtt is None:
        base_rtt = rtt_seconds
    elif rtt_seconds < base_rtt or in_flight == 1:
        base_rtt += _SMOOTHING * (rtt_seconds - base_rtt)
    limit = state.limit
    waiting = limit * (1 - base_rtt / rtt_seconds) if rtt_seconds > base_rtt and not single else 0.0
    share = rtt_seconds / timeout_seconds
    few = waiting < (max(FEW_WAITING, FEW_FRACTION * limit) if share <= LONG else NONE_WAITING)
    if share > LONG and now < state.failed_at + RENEWAL_SECONDS:
        max_calls = min(max_calls, max(1, state.failed_calls - 1))
    slow_start = state.slow_start and few
    if waiting > (max(MANY_WAITING, MANY_FRACTION * limit) if share <= LONGEST else FEW_WAITING / 2):
        limit = max(1.0, limit - 1 / limit)
    elif slow_start and 2 * in_flight > state.calls:
        # Calls that end together leave few in flight for the last of them.
        limit = min(float(max_calls), limit + 1)
    elif few and in_flight >= state.calls:
        limit = min(float(max_calls), limit + 1 / limit)
    base_rtt_seconds = {**state.base_rtt_seconds, batch_size.bit_length(): base_rtt}
    return Concurrency(limit, base_rtt_seconds, slow_start, state.failed_calls, state.failed_at)


def on_failure(state: Concurrency, *, started: float, now: float) -> Concurrency:
    """The state after a call without an answer, or one that the server refused as overload.

    `started` is the start of the call: of calls that were in flight together the first says how many are too many.
    """
    failed_calls = state.calls if started >= state.failed_at else state.failed_calls
    limit = max(1.0, state.limit / 2)
    return replace(state, limit=limit, slow_start=False, failed_calls=failed_calls, failed_at=now)

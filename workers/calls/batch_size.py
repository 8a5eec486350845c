"""PURE limit of the examples in one call, learned from the duration of calls.

A call has a limit in time, so the size of its batch follows the time of an example. The limit starts at
`START` examples and moves by factors of two. What decides is the time of a full batch that is alone at the
server, since in a queue the times of two sizes cannot be compared; `is_probing` asks for such a call.

- A batch that takes less than `TINY` of the timeout doubles the limit, twice where that fits too.
- A longer batch doubles it where larger batches pay: where an example takes at most `PAYS` of its time in half
  the batch.
- A batch that takes more than `SHORT` of the timeout, and does not pay, halves the limit. Short calls spread a
  backlog over the calls in flight.
- Something else on the machine may have made a batch slow. So the limit grows after one batch, and stays or
  falls when the fastest of `TRIALS` says so. Above LONG a trial takes too long, and other work is a small part of it.
- A timeout divides the limit by `AFTER_TIMEOUT`. Timeouts of calls from before that do not count again.

All is measured anew after a timeout, and after `RENEWAL_SECONDS`, since servers and their load change.
Times are seconds of one monotonic clock, passed in as `now`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

START = 8
# Shares of the timeout. Above LONG no larger batch than of two is tried unless it is known to pay, above LONGEST none is.
TINY, SHORT, LONG, LONGEST = 1 / 64, 1 / 16, 1 / 4, 1 / 2
PAYS = 0.8
TRIALS = 3
# After a timeout the limit is divided by this number: trials with few examples cost less time than another timeout.
AFTER_TIMEOUT = 8
RENEWAL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class BatchSize:
    """`limit` is the number of examples that one call may have.

    `is_probing` while the next full batch must be alone at the server. `lone_seconds` has the shortest times of such
    batches by the bit length of their size; they are measured anew from `renewal_at`. `trials` counts those that did
    not make the limit grow.
    """

    limit: int = START
    is_probing: bool = True
    lone_seconds: Mapping[int, float] = field(default_factory=dict)
    renewal_at: float = 0.0
    trials: int = 0


def capped(state: BatchSize, max_batch: int) -> BatchSize:
    """The state with a limit of at most `max_batch`; with a maximum of one there is nothing to learn."""
    return replace(state, limit=min(state.limit, max_batch), is_probing=max_batch > 1)


def on_success(
    state: BatchSize,
    *,
    batch_size: int,
    seconds: float,
    is_alone: bool,
    now: float,
    timeout_seconds: float,
    max_batch: int,
) -> BatchSize:
    """The state after a call with `batch_size` examples; `is_alone`: no other call was in flight."""
    if batch_size != state.limit or max_batch == 1:
        # A partial batch says little about a full one, and a larger one is from before a timeout.
        return replace(state, is_probing=False) if batch_size < state.limit else state
    if not is_alone:
        if now >= state.renewal_at:
            return replace(
                state, is_probing=True, lone_seconds={}, renewal_at=now + RENEWAL_SECONDS, trials=0
            )
        return replace(state, is_probing=batch_size.bit_length() not in state.lone_seconds)
    bits, trials = batch_size.bit_length(), state.trials + 1
    shortest = min(seconds, state.lone_seconds.get(bits, seconds)) if trials > 1 else seconds
    lone_seconds = {**state.lone_seconds, bits: shortest}
    share = shortest / timeout_seconds
    limit = min(max_batch, _next_limit(lone_seconds, batch_size, share))
    renewal_at = state.renewal_at or now + RENEWAL_SECONDS
    stays = state.is_probing and limit == batch_size < max_batch
    if (stays or limit < batch_size) and share <= LONG and trials < TRIALS:
        return BatchSize(
            batch_size, is_probing=True, lone_seconds=lone_seconds, renewal_at=renewal_at, trials=trials
        )
    return BatchSize(limit, limit != batch_size, lone_seconds, renewal_at)


def on_timeout(state: BatchSize, batch_size: int) -> BatchSize:
    """The state after a call with `batch_size` examples that took too long."""
    if batch_size > state.limit:
        return state
    return replace(
        state, limit=max(1, batch_size // AFTER_TIMEOUT), is_probing=True, lone_seconds={}, trials=0
    )


def _next_limit(lone_seconds: Mapping[int, float], batch_size: int, share: float) -> int:
    """`share` is the time of the batch as a share of the timeout."""
    if share <= TINY:
        return batch_size * (4 if 4 * share <= TINY else 2)
    here = batch_size.bit_length()
    smaller = max((size for size in lone_seconds if size < here), default=None)
    larger = min((size for size in lone_seconds if size > here), default=None)
    pays = smaller is not None and _pays(lone_seconds, smaller, here)
    # Where no other size is known, only a trial tells.
    larger_pays = share <= (LONGEST if batch_size == 1 else LONG) if smaller is None else pays
    if larger is not None:
        larger_pays = _pays(lone_seconds, here, larger)
    if larger_pays and share <= LONGEST:
        return batch_size * 2
    if share > SHORT and not pays and not larger_pays:
        return max(1, batch_size // (4 if share > LONG and smaller is None else 2))
    return batch_size


def _pays(lone_seconds: Mapping[int, float], smaller: int, larger: int) -> bool:
    """Whether an example takes less time in batches of the larger size; sizes are bit lengths."""
    return lone_seconds[larger] <= PAYS * (1 << larger - smaller) * lone_seconds[smaller]

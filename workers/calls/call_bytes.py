"""PURE limit of the bytes of the inputs in one call, which bounds its memory.

The limit starts at `MAX_BYTES`. A call that was too large for its backend, for the inputs or for what follows from
them (outputs, tensors inside the model), halves it. An input that is too large by itself shows that the calls
before failed for it, and not for their size: the limit becomes what it was before. After `RENEWAL_SECONDS` the limit
doubles, since models, servers and inputs change.

Sizes are those of the inputs in JSON. A number takes at least two bytes there and at most eight in a tensor. Times
are seconds of one monotonic clock, passed in as `now`.
"""

from dataclasses import dataclass, replace

MAX_BYTES = 8 * 1024 * 1024
RENEWAL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class CallBytes:
    """`limit` is the number of bytes that the inputs of one call may have; one larger input has a call for itself.

    `limit_before` is the limit at the last renewal, and `renewal_at` the time of the next.
    """

    limit: int = MAX_BYTES
    limit_before: int = MAX_BYTES
    renewal_at: float = 0.0


def on_success(state: CallBytes, now: float) -> CallBytes:
    """The state after a call that was not too large."""
    if state.limit == MAX_BYTES or now < state.renewal_at:
        return state
    limit = min(MAX_BYTES, 2 * state.limit)
    return CallBytes(limit, limit, now + RENEWAL_SECONDS)


def on_too_large(state: CallBytes, *, batch_size: int, size_bytes: int, now: float) -> CallBytes:
    """The state after a call with `batch_size` inputs of `size_bytes` together that was too large."""
    if batch_size == 1:
        return replace(state, limit=state.limit_before)
    before = state.limit if now >= state.renewal_at else state.limit_before
    return CallBytes(max(1, min(state.limit, size_bytes // 2)), before, now + RENEWAL_SECONDS)

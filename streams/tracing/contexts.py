"""PURE. The W3C Trace Contexts that records carry."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from streams.kafka.offset_tracker import Record

MAX_TRACESTATE_BYTES = 512

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 1
# The position of the last digit of the flags, in every version, and its values without the sampled flag.
_FLAGS_END = 54
_NOT_SAMPLED = frozenset(b"02468ace")


class SampledContext(NamedTuple):
    """The sampled span that a request belongs to; `flags` and `state` as received."""

    trace_id: int
    span_id: int
    flags: int
    state: str


def sampled_contexts(records: Iterable[Record], limit: int) -> list[SampledContext]:
    """The first `limit` distinct sampled contexts of records, in order."""
    found: dict[bytes, SampledContext] = {}
    for record in records:
        for name, value in record.headers:
            if name == "traceparent":
                # Senders sample few requests: most records need no more than this check.
                if value and not (len(value) > _FLAGS_END and value[_FLAGS_END] in _NOT_SAMPLED):
                    context = None if value in found else sampled_context(record.headers)
                    if context is not None:
                        found[value] = context
                        if len(found) == limit:
                            return list(found.values())
                break
    return list(found.values())


def sampled_context(headers: Sequence[tuple[str, bytes]]) -> SampledContext | None:
    """The context of one record; None without a valid one, and when it is not sampled."""
    parent = state = None
    for name, value in headers:
        if name == "traceparent":
            parent = value
        elif name == "tracestate":
            state = value
    # The value of a header may be null.
    if parent is None or (match := _TRACEPARENT.fullmatch(parent)) is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # Later versions may have more fields; version 00 has none, and version ff is invalid.
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    context = SampledContext(int(trace_id, 16), int(span_id, 16), int(flags, 16), _text(state))
    if not (context.trace_id and context.span_id and context.flags & _SAMPLED):
        return None
    return context


def traceparent(trace_id: int, span_id: int, flags: int) -> str:
    """The value of the `traceparent` header of a context."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def _text(state: bytes | None) -> str:
    if state is None or len(state) > MAX_TRACESTATE_BYTES or not state.isascii():
        return ""
    return state.decode()

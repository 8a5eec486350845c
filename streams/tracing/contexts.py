"""PURE. The W3C Trace Contexts that records carry."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from streams.kafka.offset_tracker import Record

MAX_TRACESTATE_BYTES = 512

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 1
# The last digit of the flags, in every version, and what it is when they do not say sampled.
_FLAGS_END = 54
_NOT_SAMPLED = frozenset(b"02468ace")


class SampledContext(NamedTuple):
    """The span that a request belongs to, which its sender sampled; `flags` and `state` as they came."""

    trace_id: int
    span_id: int
    flags: int
    state: str


def sampled_contexts(records: Iterable[Record], limit: int) -> list[SampledContext]:
    """The sampled contexts of records, each once, in order; the first `limit` of them."""
    found: dict[bytes, SampledContext] = {}
    for record in records:
        for name, value in record.headers:
            if name == "traceparent":
                # A sender samples few of its requests: of most this is all that is looked at.
                if value and not (len(value) > _FLAGS_END and value[_FLAGS_END] in _NOT_SAMPLED):
                    context = None if value in found else sampled_context(record.headers)
                    if context is not None:
                        found[value] = context
                        if len(found) == limit:
                            return list(found.values())
                break
    return list(found.values())


def sampled_context(headers: Sequence[tuple[str, bytes]]) -> SampledContext | None:
    """The context of one record; None when it has none that can be read, or is not sampled."""
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
    # A later version may have more; this one has not, and ff is none.
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    context = SampledContext(int(trace_id, 16), int(span_id, 16), int(flags, 16), _text(state))
    if not (context.trace_id and context.span_id and context.flags & _SAMPLED):
        return None
    return context


def traceparent(trace_id: int, span_id: int, flags: int) -> str:
    """The header that hands a context on."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def _text(state: bytes | None) -> str:
    if state is None or len(state) > MAX_TRACESTATE_BYTES or not state.isascii():
        return ""
    return state.decode()

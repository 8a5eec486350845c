"""streams/tracing/contexts.py: which records are traced, by W3C Trace Context."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streams.tracing.contexts import SampledContext, sampled_context, sampled_contexts, traceparent
from tests.support.models.served_versions import record_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01".encode()
CONTEXT = SampledContext(int(TRACE, 16), int(SPAN, 16), 1, "")


def of(parent: bytes | None, *more: tuple[str, bytes]) -> SampledContext | None:
    headers: list[tuple[str, Any]] = [("other", b"1"), ("traceparent", parent), *more]
    return sampled_context(headers)


def test_a_sampled_context_is_read() -> None:
    """With the flags and the state of its sender."""
    assert of(SAMPLED) == CONTEXT
    assert of(SAMPLED, ("tracestate", b"a=1,b=2")) == CONTEXT._replace(state="a=1,b=2")
    assert of(SAMPLED[:-2] + b"03") == CONTEXT._replace(flags=3)
    assert of(b"cc" + SAMPLED[2:] + b"-later") == CONTEXT
    assert sampled_context([]) is None


@pytest.mark.parametrize(
    "parent",
    [
        None,
        b"",
        SAMPLED[:-2] + b"00",
        SAMPLED[:-2] + b"02",
        SAMPLED + b"-more",
        SAMPLED + b"\n",
        SAMPLED.upper(),
        b"ff" + SAMPLED[2:],
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        b"\xff" * 55,
    ],
)
def test_what_is_not_sampled_or_no_context_is_none(parent: bytes | None) -> None:
    """The header may hold any bytes."""
    assert of(parent) is None


@pytest.mark.parametrize("state", [b"\xff", b"a=" + b"x" * 600, None])
def test_a_bad_state_costs_only_itself(state: Any) -> None:
    """The specification says so."""
    assert of(SAMPLED, ("tracestate", state)) == CONTEXT


_HEX = st.text("0123456789abcdef", min_size=1, max_size=3)
_PARTS = st.tuples(
    st.sampled_from(["00", "01", "ff", "0"]) | _HEX,
    st.sampled_from([TRACE, "0" * 32, "1" * 31]),
    st.sampled_from([SPAN, "0" * 16, "2" * 17]),
    st.sampled_from(["00", "01", "02", "03", "1", "g1"]) | _HEX,
    st.sampled_from(["", "-", "-x"]),
)


@given(_PARTS)
def test_it_reads_as_opentelemetry_does(parts: tuple[str, str, str, str, str]) -> None:
    """OpenTelemetry's own reader is the reference."""
    *fields, more = parts
    header = "-".join(fields) + more
    theirs = get_current_span(
        TraceContextTextMapPropagator().extract({"traceparent": header})
    ).get_span_context()
    ours = of(header.encode())
    if theirs.is_valid and theirs.trace_flags.sampled:
        assert ours == SampledContext(theirs.trace_id, theirs.span_id, theirs.trace_flags, "")
        assert traceparent(*ours[:3])[2:] == header[2:55]
    else:
        assert ours is None


def test_a_slice_has_each_context_once_and_not_too_many() -> None:
    """In the order of the records."""
    parents = [f"00-{TRACE}-{number:016x}-01".encode() for number in (3, 1, 3, 2, 4)]
    records = [record_of(b"", headers=[("traceparent", parent)]) for parent in parents]
    records.insert(1, record_of(b""))
    assert [context.span_id for context in sampled_contexts(records, 3)] == [3, 1, 2]
    assert len(sampled_contexts(records, 10)) == 4

"""PURE. The Kafka timestamps of records, which their senders' clocks write: in milliseconds, if all is well."""

from schemas.bounds import ONE_DAY_MS

_MINUTE_MS = 60_000
# In March 1973: earlier times are seconds, or no time at all.
_EARLIEST_MS = 10**11
_UNITS = (("seconds", 1e3), ("microseconds", 1e-3), ("nanoseconds", 1e-6))


def is_in_milliseconds(timestamp_ms: int) -> bool:
    """False for a timestamp in seconds, and for a record without one."""
    return timestamp_ms >= _EARLIEST_MS


def measurable_ms(now_unix_ms: int) -> tuple[int, int]:
    """The earliest and the latest timestamp, in ms, of a record whose age can be measured: those of the last day.

    Up to a minute ahead counts as now, since clocks differ.
    """
    return now_unix_ms - ONE_DAY_MS, now_unix_ms + _MINUTE_MS


def describe_age(timestamp_ms: int, now_unix_ms: float) -> str:
    """How old a record is, and what may be wrong with its timestamp."""
    if timestamp_ms < 0:
        return "the record has no Kafka timestamp"
    for unit, factor in _UNITS:
        if abs(timestamp_ms * factor - now_unix_ms) <= ONE_DAY_MS:
            return f"the record's Kafka timestamp looks like {unit}; Kafka's are milliseconds"
    age_ms = now_unix_ms - timestamp_ms
    text = f"the record is {_span(age_ms / 1000)} old by its Kafka timestamp"
    if age_ms > _MINUTE_MS:
        text += "; if it was sent just now, its sender's clock is wrong"
    return text


def _span(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.3g} s"

"""schemas/windows.py: every delta in its windows once, and sums that are exact."""

import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.histogram import quantile
from schemas.windows import (
    RESOLUTIONS_SECONDS,
    SequenceWatermark,
    Totals,
    count_missing,
    drop_duplicates,
    read_delta,
    total,
    window_start,
    windows_of,
)
from tests.support.metrics.deltas import NOON, delta

NOON_MS = int(NOON.timestamp() * 1000)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_each_delta_counts_once_however_often_it_is_read(seqs: list[int], chance: random.Random) -> None:
    """A partition read again from any earlier offset, in slices of any size, adds nothing twice."""
    in_partition = [delta(seq) for seq in sorted(set(seqs))]
    watermarks: dict[tuple[str, str], SequenceWatermark] = {}
    counted: list[int] = []
    position = 0
    while position < len(in_partition):
        start = chance.randint(0, position)
        end = chance.randint(position + 1, len(in_partition))
        new, advanced = drop_duplicates(in_partition[start:end], watermarks)
        watermarks |= advanced
        counted += [each.seq for each in new]
        position = end
    assert counted == sorted(set(seqs))
    (watermark,) = watermarks.values()
    assert (watermark.first_seq, watermark.last_seq, watermark.seen) == (min(seqs), max(seqs), len(set(seqs)))


def test_a_new_life_of_a_worker_begins_anew() -> None:
    """Its boot_id is another, so its seq 0 is no repeat."""
    new, advanced = drop_duplicates(
        [delta(0), delta(0, boot_id="c")], {("w", "b"): SequenceWatermark(0, 7, 8)}
    )
    assert [each.boot_id for each in new] == ["c"]
    assert advanced.keys() == {("w", "c")}


def test_what_no_partition_has_is_lost() -> None:
    """The deltas of a boot are spread over the partitions by their models."""
    assert count_missing([SequenceWatermark(0, 4, 3), SequenceWatermark(1, 5, 3)]) == 0
    assert count_missing([SequenceWatermark(0, 4, 3), SequenceWatermark(1, 5, 2)]) == 1
    assert count_missing([SequenceWatermark(2, 4, 3)]) == 2
    assert count_missing([]) == 0


def test_a_delta_is_in_a_window_of_each_resolution() -> None:
    """By the beginning of its own window; versions and models apart."""
    at = NOON + timedelta(seconds=3599, milliseconds=999)
    windows = windows_of([delta(0, at=at), delta(1, at=at, model_version="v2")])
    starts = {(key.resolution_seconds, key.start) for key in windows if key.model_version == "v1"}
    assert starts == {
        (10, NOON + timedelta(seconds=3590)),
        (60, NOON + timedelta(seconds=3540)),
        (3600, NOON),
    }
    assert len(windows) == 2 * len(RESOLUTIONS_SECONDS)


@pytest.mark.parametrize("resolution", RESOLUTIONS_SECONDS)
def test_windows_begin_at_whole_multiples(resolution: int) -> None:
    """So that all workers and all restarts mean the same window."""
    assert window_start(NOON, resolution) == NOON
    assert window_start(NOON + timedelta(seconds=resolution) - timedelta(microseconds=1), resolution) == NOON


def test_sums_are_exact_and_percentiles_within_their_bound() -> None:
    """Merged in two steps, as windows are, beside all values at once."""
    chance = random.Random(5)
    values = [chance.lognormvariate(1, 1) for _ in range(5000)]
    parts = [delta(at, latencies=tuple(values[at::50])) for at in range(50)]
    merged = total([total(parts[:20]), *parts[20:]])
    assert merged.requests == merged.latency_ms.count == 5000
    for q in (0.5, 0.9, 0.99, 0.999):
        exact = sorted(values)[int(q * 5000) - 1]
        assert merged.latency_quantile_ms(q) == pytest.approx(exact, rel=0.011)
    assert merged.latency_quantile_ms(1.0) == max(values)
    assert Totals.model_validate_json(merged.model_dump_json()) == merged


def test_what_production_answered_speaks_against_the_version() -> None:
    """Its requests are production's, but the version failed them."""
    both = total([delta(requests=8, ok=6, errors={"INTERNAL": 2}, fallbacks={"BACKEND_ERROR": 2})])
    assert (both.asked, both.failed, both.error_share) == (10, 4, 0.4)
    assert total([]).error_share == 0.0
    assert total([]).cache_hit_share is None
    assert quantile(total([]).latency_ms, 0.5) == 0.0


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"{}", b'{"worker": "w"}', b"\xff"])
def test_what_is_no_delta_is_refused(value: bytes | None) -> None:
    """The reader counts it and goes on."""
    with pytest.raises((ValidationError, ValueError)):
        read_delta(value, NOON_MS)


def test_a_delta_of_another_scale_is_refused() -> None:
    """It would not merge with the others."""
    other = delta().model_copy(update={"backend_ms": delta().latency_ms.model_copy(update={"scale": 3})})
    with pytest.raises(ValueError, match="backend_ms is counted at scale 3, not 5"):
        read_delta(other.model_dump_json().encode(), NOON_MS)
    assert read_delta(delta().model_dump_json().encode(), NOON_MS) == delta()


@pytest.mark.parametrize("hours", [-25, 25])
def test_a_delta_of_another_day_is_refused(hours: int) -> None:
    """Its windows would never be forgotten, or be forgotten at once."""
    value = delta(at=NOON + timedelta(hours=hours)).model_dump_json().encode()
    with pytest.raises(ValueError, match="more than a day from the record"):
        read_delta(value, NOON_MS)


def test_a_sum_stays_readable() -> None:
    """However many counts of the largest size are added."""
    largest = delta(requests=2**63 - 1, errors={"INTERNAL": 2**63 - 1})
    summed = total([largest, largest, total([largest])])
    assert summed.requests == summed.errors["INTERNAL"] == 2**63 - 1
    assert Totals.model_validate_json(summed.model_dump_json()) == summed

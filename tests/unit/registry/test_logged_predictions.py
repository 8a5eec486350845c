"""The ranges of offsets that are looked up before rows are added."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from registry.logged_predictions import MAX_GAP_OFFSETS, RequestKey, offset_ranges


@given(
    st.sets(
        st.tuples(
            st.sampled_from(["a", "b"]), st.integers(0, 1), st.integers(0, 10 * MAX_GAP_OFFSETS), st.just("r")
        ),
        min_size=1,
    )
)
def test_offset_ranges_cover_all_keys_and_no_wide_gap(keys: set[RequestKey]) -> None:
    """Each key is in one range, and neighbours farther apart are in two."""
    found = offset_ranges(sorted(keys))
    for topic, partition, offset, _ in keys:
        assert (
            sum((topic, partition) == each[:2] and each.first <= offset <= each.last for each in found) == 1
        )
    for each in found:
        offsets = sorted(key[2] for key in keys if key[:2] == each[:2] and each.first <= key[2] <= each.last)
        assert (offsets[0], offsets[-1]) == (each.first, each.last)
        assert all(after - before <= MAX_GAP_OFFSETS for before, after in pairwise(offsets))
    for before, after in pairwise(found):
        assert before[:2] != after[:2] or after.first - before.last > MAX_GAP_OFFSETS

"""Records that were deleted before they were read are counted by topic."""

from structlog.testing import capture_logs

from streams.kafka.lost_records import LostRecords
from streams.kafka.offset_tracker import Partition

ONE, TWO = Partition("t", 0), Partition("t", 1)


def test_the_offsets_up_to_the_new_position_are_lost() -> None:
    """Over all partitions of a topic; each refusal counts once."""
    lost = LostRecords()
    lost.refused(ONE, 10)
    lost.refused(ONE, 10)
    lost.refused(TWO, 5)
    assert lost.waiting == [ONE, TWO]
    with capture_logs() as logged:
        lost.moved(ONE, 5010)
    assert lost.waiting == [TWO]
    assert lost.total == {"t": 5000}
    assert [(line["lost"], line["first_offset"], line["next_offset"]) for line in logged] == [
        (5000, 10, 5010)
    ]
    lost.moved(TWO, 6)
    assert lost.total == {"t": 5001}
    assert lost.waiting == []


def test_a_position_beyond_the_end_is_no_loss_of_ours() -> None:
    """The partition has lost its end; its records are read again."""
    lost = LostRecords()
    lost.refused(ONE, 10)
    with capture_logs() as logged:
        lost.moved(ONE, 0)
    assert lost.total == {}
    assert [line["event"] for line in logged] == [
        "the partition ends before the position; it is read again from its first record"
    ]


def test_a_rebalance_forgets_what_was_refused() -> None:
    """The next owner starts from the committed offset, and counts."""
    lost = LostRecords()
    lost.refused(ONE, 10)
    lost.clear()
    assert lost.waiting == []

"""streams/serving/active_tables.py: which table is the oldest in use, whatever the order in which slices end."""

from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from streams.serving.active_tables import ActiveTables
from streams.serving.route_table import ServingTable
from tests.support.models.served_versions import RecordingBackend, served_model, served_version


def test_a_slice_keeps_its_table() -> None:
    """A swap changes nothing for it; `changed` is set by the swap, and by the end of the last older slice."""
    tables = ActiveTables()
    old, new = tables.current, ServingTable(epoch=1)
    with tables.in_use() as first:
        with tables.in_use() as second:
            assert first is second is old
            tables.swap(new)
            assert tables.changed.is_set()
            tables.changed.clear()
            assert (tables.current, tables.oldest()) == (new, old)
        assert not tables.changed.is_set()
    assert tables.changed.is_set()
    assert tables.oldest() is new


def test_the_end_of_a_slice_on_the_current_table_changes_nothing() -> None:
    """Nobody is woken for it."""
    tables = ActiveTables()
    with tables.in_use():
        pass
    assert not tables.changed.is_set()


def test_versions_in_use_are_those_of_every_table_in_use() -> None:
    """A version that was replaced counts until the last slice that holds it has ended."""
    one, two = (served_version("m", name, RecordingBackend()) for name in ("v1", "v2"))
    tables = ActiveTables()
    tables.swap(ServingTable(epoch=1, models={"m": served_model("m", 1, one)}))
    with tables.in_use():
        tables.swap(ServingTable(epoch=2, models={"m": served_model("m", 2, two)}))
        assert tables.versions_in_use() == {one, two}
    assert tables.versions_in_use() == {two}


@given(st.lists(st.sampled_from(["begin", "swap", 0, 1, 2, 3]), max_size=30))
def test_the_oldest_table_is_that_of_the_oldest_slice(steps: list[str | int]) -> None:
    """In any order of beginnings, swaps and ends."""
    tables = ActiveTables()
    slices: list[tuple[int, ExitStack]] = []
    for step in steps:
        if step == "begin":
            stack = ExitStack()
            slices.append((stack.enter_context(tables.in_use()).epoch, stack))
        elif step == "swap":
            tables.swap(ServingTable(epoch=tables.current.epoch + 1))
        elif slices:
            assert isinstance(step, int)
            _, stack = slices.pop(step % len(slices))
            stack.close()
        assert tables.oldest().epoch == min([epoch for epoch, _ in slices], default=tables.current.epoch)

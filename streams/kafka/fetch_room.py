"""PURE. How many of the fetched records one look at them takes, so that slices are bounded in memory."""

from bisect import bisect_right
from collections.abc import Sequence


class FetchRoom:
    """The bytes of memory that the records of one look, of all partitions together, may take.

    `is_full` is set when records have to be left for the next look. The first record is taken whatever its size.
    """

    def __init__(self, room_bytes: int) -> None:
        self._left_bytes = room_bytes
        self._is_unused = True
        self.is_full = False

    def take(self, memory_bytes: Sequence[int], at: int, end: int) -> int:
        """Take the records `at` to `end`, or as many as there is room for; returns the end of those.

        `memory_bytes` has the bytes that the first 0, 1, 2 … records of their batch take.
        """
        before = memory_bytes[at]
        fitting = bisect_right(memory_bytes, before + self._left_bytes, at + 1, end + 1) - 1
        if fitting == at and self._is_unused:
            fitting += 1
        self.is_full = fitting < end
        if fitting > at:
            self._is_unused = False
            self._left_bytes -= memory_bytes[fitting] - before
        return fitting

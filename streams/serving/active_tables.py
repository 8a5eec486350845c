"""The serving table that new slices capture, and the older ones that slices in flight still hold."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from streams.serving.route_table import ServedVersion, ServingTable


class ActiveTables:
    """The current table, with a count of the slices in flight for each table that is in use.

    `changed` is set when the current table is swapped, and when the last slice of an older table ends. The
    waiting task clears it.
    """

    def __init__(self) -> None:
        self.current = ServingTable()
        self.changed = asyncio.Event()
        self._slices: Counter[ServingTable] = Counter()

    @contextmanager
    def in_use(self) -> Iterator[ServingTable]:
        """Yield the current table; it counts as in use until the block ends, so hold it until delivery."""
        table = self.current
        self._slices[table] += 1
        try:
            yield table
        finally:
            self._slices[table] -= 1
            if not self._slices[table]:
                del self._slices[table]
                if table is not self.current:
                    self.changed.set()

    def swap(self, table: ServingTable) -> None:
        """Give the next slices another table."""
        self.current = table
        self.changed.set()

    def revision_of(self, model_name: str) -> int:
        """The revision of a model's current route; 0 for a model that is not served."""
        model = self.current.models.get(model_name)
        return 0 if model is None else model.revision

    def oldest(self) -> ServingTable:
        """The oldest table in use: no response from now on comes from an older one."""
        # The counter keeps the order of first use, which is the order of age.
        return next(iter(self._slices), self.current)

    def versions_in_use(self) -> set[ServedVersion]:
        """Every version of the current table and of the tables that slices in flight hold."""
        return set().union(*(table.versions() for table in (self.current, *self._slices)))

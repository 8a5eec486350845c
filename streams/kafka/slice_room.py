"""PURE. The room for slices that are handled at once, and what is set aside to keep it free.

Every slice takes room by the weight of its unanswered records. What waits for a slow version would fill the room, and
then no other version would get a record. So where a slice finds no room, the oldest ones that have been handled for
`PATIENCE_SECONDS` are set aside: they are handled as before, and take no room. What is set aside has a limit too. When
it is reached, the next slice waits until records are answered, whichever version they are for.

Times are seconds of one monotonic clock, passed in as `now`.
"""

import math

from streams.kafka.offset_tracker import Slice

# A backlog for versions that are fast enough is handled without setting anything aside: its slices take less.
PATIENCE_SECONDS = 0.5


class SliceRoom:
    """Room for slices of the weight `size`, with `aside_size` beside it.

    A slice enters an empty room in any case, so a room of size 0 is for one slice at a time.
    """

    def __init__(self, size: int, aside_size: int = 0) -> None:
        self._free = size
        self._aside_size = aside_size
        # In the order in which they came, each with the time of its entry.
        self._in_room: dict[Slice, float] = {}
        self._aside: set[Slice] = set()

    def enters(self, entering: Slice, now: float) -> bool:
        """Let a slice in, setting others aside for it where that makes enough room; False when there is none."""
        needed = entering.weight - self._free
        if needed > 0 and self._aside_size:
            for old in self._to_set_aside(needed, now):
                # It becomes lighter by its whole weight, which makes room.
                old.set_aside()
                del self._in_room[old]
                self._aside.add(old)
        if self._in_room and self._free < entering.weight:
            return False
        self._free -= entering.weight
        self._in_room[entering] = now
        entering.on_lighter(self._lighter)
        return True

    def leaves(self, handled: Slice) -> None:
        """Take out a slice that is handled."""
        self._aside.discard(handled)
        if handled in self._in_room:
            del self._in_room[handled]
            self._free += handled.weight

    def next_at(self, now: float) -> float:
        """When the next slice may be set aside; infinite where none may."""
        if not self._aside_size:
            return math.inf
        times = (entered + PATIENCE_SECONDS for entered in self._in_room.values())
        return next((at for at in times if at > now), math.inf)

    def _to_set_aside(self, needed: int, now: float) -> list[Slice]:
        """The oldest slices that together make the room that is needed; none where they do not."""
        aside_free = self._aside_size - sum(waiting.weight_aside for waiting in self._aside)
        chosen: list[Slice] = []
        for old, entered in self._in_room.items():
            if needed <= 0 or now < entered + PATIENCE_SECONDS:
                break
            if old.weight <= aside_free:
                aside_free -= old.weight
                needed -= old.weight
                chosen.append(old)
        return chosen if needed <= 0 else []

    def _lighter(self, lighter: Slice, lost: int) -> None:
        if lighter in self._in_room:
            self._free += lost

"""What a slice says of its unanswered records while the pipeline works on it, whatever ends first."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import BackendUnavailableError
from schemas.events import JsonObject
from streams.kafka.batch_producer import OutputBatch
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend
from tests.support.worker.pipeline_harness import Canary, slice_of

MALFORMED = b"{"


class Open:
    """What waits for the test: calls to a backend and batches at the broker, each with its future."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._open: list[tuple[asyncio.Future[None], frozenset[int]]] = []
        self.delivered: set[int] = set()
        """The offsets of the records whose output the broker has."""

    def add(self, offsets: frozenset[int] = frozenset()) -> asyncio.Future[None]:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.append((waiting, offsets))
        return waiting

    def end_one(self) -> bool:
        """End something; False when nothing is open."""
        if not self._open:
            return False
        waiting, offsets = self._open.pop(self._rng.randrange(len(self._open)))
        if not waiting.done():
            self.delivered |= offsets
            waiting.set_result(None)
        return True


class SlowBackend(RecordingBackend):
    """Each call ends when the test says so; a call with a three among its inputs fails."""

    def __init__(self, waits: Open) -> None:
        super().__init__()
        self._waits = waits

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:  # noqa: ARG002  # the port's signature
        await self._waits.add()
        if any(value["x"] == 3 for value in inputs):
            raise BackendUnavailableError("three")
        return [[value["x"]] for value in inputs]


class SlowOutput:
    """The broker has each batch when the test says so."""

    def __init__(self, waits: Open) -> None:
        self._waits = waits

    def join(self, *_: object) -> tuple[int, None]:
        return 0, None

    async def send_batch(self, batch: OutputBatch, topic: str, _: int) -> asyncio.Future[Any]:
        # A record with a response and a dead letter has both in one turn; the response counts here.
        offsets = set()
        records = MemoryRecords(bytes(batch._build()))
        while records.has_next():
            for record in records.next_batch():
                source = dict(record.headers)["headrace-source"].decode()
                if topic == "responses" or record.value == MALFORMED:
                    offsets.add(int(source.rpartition("/")[2]))
        return self._waits.add(frozenset(offsets))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.none() | st.integers(0, 5)), min_size=1, max_size=20),
    st.booleans(),
    st.integers(0, 2**32),
)
async def test_a_slice_never_takes_a_record_for_answered_before_the_broker_has_its_output(
    records: list[tuple[bool, int | None]], is_cancelled: bool, seed: int
) -> None:
    """With two versions, a fallback and malformed records; also when it is handed back in the middle."""
    rng = random.Random(seed)
    waits = Open(rng)
    canary = Canary(SlowBackend(waits), SlowBackend(waits), {"max_batch": 2})
    # White-box: the harness has an output that delivers at once.
    canary.harness.pipeline._output = SlowOutput(waits)
    handled = slice_of(
        *(
            MALFORMED if x is None else canary.request(str(at), x, of=canary.v1 if own else canary.v2)
            for at, (own, x) in enumerate(records)
        )
    )
    expected = handled.end
    working = asyncio.create_task(canary.harness.pipeline.process(handled))
    cancel_after = rng.randrange(30) if is_cancelled else -1
    for step in range(1000):
        for _ in range(rng.randrange(1, 12)):
            await asyncio.sleep(0)
        undelivered = set(range(len(records))) - waits.delivered
        assert handled.first_unanswered() <= min(undelivered, default=expected)
        assert {record.offset for record in handled.records} >= undelivered
        if step == cancel_after:
            working.cancel()
        if working.done():
            break
        waits.end_one()
    if is_cancelled:
        await asyncio.wait([working], timeout=DEADLINE_SECONDS)
        assert working.done()
        undelivered = set(range(len(records))) - waits.delivered
        assert handled.first_unanswered() <= min(undelivered, default=expected)
    else:
        await asyncio.wait_for(working, DEADLINE_SECONDS)
        assert waits.delivered == set(range(len(records)))
    await canary.harness.pipeline.close()

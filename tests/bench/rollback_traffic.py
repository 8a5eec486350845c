"""`python -m tests.bench.rollback_traffic ORDER`: steady requests, and an account of every answer.

ORDER is an `Order` as JSON. It sends until its standard input ends, waits for the answers that are missing, writes
its account into `folder` and ends. To each line of its input it answers with a line when, from then on, so many
answers in a row as there are inputs came from the cache.
"""

import asyncio
import json
import sys
import time
from array import array
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from .rollback_figures import Answers
from .workload import PARTITIONS, message, number_of

SAMPLE = 997
MAX_ERRORS = 5
_TICK_SECONDS = 0.01
# The most requests that it sends at once to catch up after a stall: they fit a batch for each partition.
_MOST_AT_ONCE = 4000
_BATCH_BYTES = 512 * 1024
_WAIT_MS = 200
_LOST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Order:
    """`inputs` different inputs are asked for in turn."""

    bootstrap: str
    requests: str
    responses: str
    per_second: int
    inputs: int
    folder: str


@dataclass(slots=True)
class Account:
    """What became of all requests; `samples` are the number, version and predictions of one in `SAMPLE`."""

    sent: int = 0
    answered: int = 0
    repeated: int = 0
    errors: list[Any] = field(default_factory=list)
    samples: list[tuple[int, str, Any]] = field(default_factory=list)


def read_account(folder: Path) -> tuple[Account, Answers]:
    """What the process wrote into its folder."""
    account = Account(**json.loads((folder / "account.json").read_text()))
    with np.load(folder / "answers.npz") as stored:
        answers = Answers(
            stored["appended_ms"],
            stored["revisions"],
            stored["version_indices"],
            [str(version) for version in stored["versions"]],
        )
    return account, answers


class Traffic:
    """Sends and reads in one process, so that both cost the machine little."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._account = Account()
        self._is_answered = bytearray()
        self._appended_ms = array("q")
        self._revisions = array("q")
        self._version_indices = array("b")
        self._versions: dict[str, int] = {}
        self._cached_in_a_row = 0
        self._asked_for_warmth = False
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Until standard input ends and every request has its answer, or none came for long."""
        order = self._order
        producer = AIOKafkaProducer(bootstrap_servers=order.bootstrap, max_batch_size=_BATCH_BYTES)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=order.bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        async with producer, consumer:
            consumer.assign([TopicPartition(order.responses, number) for number in range(PARTITIONS)])
            sending = asyncio.create_task(self._send(producer))
            reading = asyncio.create_task(self._read(consumer))
            while await asyncio.to_thread(sys.stdin.readline):
                self._cached_in_a_row, self._asked_for_warmth = 0, True
            self._ending.set()
            await sending
            await reading
        self._write()

    async def _send(self, producer: AIOKafkaProducer) -> None:
        """An open loop: however slow the answers are, the rate stays."""
        start, account = time.monotonic(), self._account
        while not self._ending.is_set():
            due = min(int((time.monotonic() - start) * self._order.per_second), account.sent + _MOST_AT_ONCE)
            batches = [producer.create_batch() for _ in range(PARTITIONS)]
            now_ms = int(time.time() * 1000)
            for number in range(account.sent, due):
                request = message(number, subject=number % self._order.inputs)
                added = batches[request.partition].append(
                    key=request.key, value=request.value, timestamp=now_ms, headers=[]
                )
                assert added is not None
            self._is_answered.extend(bytes(due - account.sent))
            account.sent = due
            for partition, batch in enumerate(batches):
                if batch.record_count():
                    await producer.send_batch(batch, self._order.requests, partition=partition)
            await asyncio.sleep(_TICK_SECONDS)
        await producer.flush()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        moved = time.monotonic()
        while not self._ending.is_set() or self._account.answered < self._account.sent:
            fetched = await consumer.getmany(timeout_ms=_WAIT_MS)
            for records in fetched.values():
                for record in records:
                    self._take(orjson.loads(record.value), record.timestamp)
            if fetched or not self._ending.is_set():
                moved = time.monotonic()
            elif time.monotonic() - moved > _LOST_SECONDS:
                return

    def _take(self, answer: dict[str, Any], appended_ms: int) -> None:
        account, version = self._account, answer["model_version"]
        number = number_of(answer["request_id"])
        if self._is_answered[number]:
            account.repeated += 1
        else:
            self._is_answered[number] = 1
            account.answered += 1
        self._appended_ms.append(appended_ms)
        self._revisions.append(answer["revision"])
        self._version_indices.append(self._versions.setdefault(version, len(self._versions)))
        if "error" in answer:
            if len(account.errors) < MAX_ERRORS:
                account.errors.append(answer["error"])
            return
        if number % SAMPLE == 0:
            account.samples.append((number, version, answer["predictions"]))
        self._cached_in_a_row = self._cached_in_a_row + 1 if answer["cached"] else 0
        if self._asked_for_warmth and self._cached_in_a_row >= self._order.inputs:
            self._asked_for_warmth = False
            sys.stdout.write("warm\n")
            sys.stdout.flush()

    def _write(self) -> None:
        folder = Path(self._order.folder)
        np.savez(
            folder / "answers.npz",
            appended_ms=np.frombuffer(self._appended_ms, dtype=np.int64),
            revisions=np.frombuffer(self._revisions, dtype=np.int64),
            version_indices=np.frombuffer(self._version_indices, dtype=np.int8),
            versions=np.array(list(self._versions)),
        )
        (folder / "account.json").write_text(json.dumps(asdict(self._account)))


if __name__ == "__main__":
    asyncio.run(Traffic(Order(**json.loads(sys.argv[1]))).run())

"""What may arrive in `predict-requests` and what becomes of it, through a real broker and a real worker.

Each case is one record, with a good one behind it on the same partition. What is written for it is
compared with the contract to the last header, and the good one must be answered.
"""

import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import jsonschema_rs
import orjson
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer, ConsumerRecord

from schemas.events import PredictResponse
from schemas.wire import MAX_RECORD_BYTES
from streams.config.settings import Settings
from tests.support.kafka.topic_log import TopicLog, topic_log
from tests.support.models.served_model import apply, predictions_of, serve_model, spec_of
from tests.support.promotions.events import event
from tests.support.stack.services import StackAddresses, own_database, own_topics
from tests.support.worker.bad_input import CASES, IDLE_MODEL, MODEL, REQUEST_ID, Case, Headers, body
from tests.support.worker.process import WorkerProcess, worker_processes

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("bad-input")]

PARTITIONS = 3
RESPONSE_FIELDS = {
    *("request_id", "model_name", "model_version", "user_id", "latency_ms", "cached", "revision", "stale"),
}
PUBLISHED = jsonschema_rs.Draft202012Validator(
    json.loads((Path(__file__).parents[2] / "docs/schemas/PredictResponse.json").read_text())
)


class Harness:
    """The worker, its topics, and the records that were sent so far."""

    def __init__(
        self, settings: Settings, model: str, log: TopicLog, producer: AIOKafkaProducer, worker: WorkerProcess
    ) -> None:
        self.settings = settings
        self.model = model
        self.log = log
        self.worker = worker
        self.expected_responses: list[str] = []
        self.expected_dead_letters: list[str] = []
        self._producer = producer
        self._sent = 0

    def next_partition(self) -> int:
        self._sent += 1
        return self._sent % PARTITIONS

    def named(self, value: bytes | None) -> bytes | None:
        """The value with the name of this run's model in it."""
        return value and value.replace(b'"%b"' % MODEL.encode(), b'"%b"' % self.model.encode())

    async def send(
        self, partition: int, key: bytes | None, value: bytes | None, headers: Headers = (), age_ms: int = 0
    ) -> str:
        """Write a request; its source as the contract writes it."""
        # A batch, because a single send takes no record without both key and value.
        batch = self._producer.create_batch()
        timestamp_ms = int(time.time() * 1000) - age_ms
        batch.append(key=key, value=value, timestamp=timestamp_ms, headers=list(headers))
        topic = self.settings.topic_requests
        place = await (await self._producer.send_batch(batch, topic, partition=partition))
        return f"{place.topic}/{place.partition}/{place.offset}"

    def responses(self, source: str) -> list[ConsumerRecord]:
        return _from(source, self.log.of(self.settings.topic_responses))

    def dead_letters(self, source: str) -> list[ConsumerRecord]:
        return _from(source, self.log.of(self.settings.topic_dead_letters))


def _from(source: str, records: Sequence[ConsumerRecord]) -> list[ConsumerRecord]:
    # The last one counts: a record may come with a header of that name.
    return [record for record in records if dict(record.headers).get("headrace-source") == source.encode()]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harness(stack: StackAddresses, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """One worker for all cases, which follow each other on its partitions."""
    folder = tmp_path_factory.mktemp("bad-input")
    async with own_database(stack) as dsn, own_topics(stack) as make_topics:
        model = await serve_model(dsn, folder)
        assert len(model) == len(MODEL)
        await apply(dsn, event("register", IDLE_MODEL, model=spec_of(folder, "v1")))
        settings = await make_topics(PARTITIONS, postgres_dsn=dsn, artifact_dir=str(folder / "artifacts"))
        producer = AIOKafkaProducer(
            bootstrap_servers=settings.kafka_bootstrap, max_request_size=4 * MAX_RECORD_BYTES
        )
        await producer.start()
        with worker_processes() as start_worker:
            worker = start_worker(settings)
            await worker.ready()
            topics = (settings.topic_responses, settings.topic_dead_letters)
            async with topic_log(settings.kafka_bootstrap, *topics) as log:
                yield Harness(settings, model, log, producer, worker)
        await producer.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.encode("ascii", "replace").decode())
async def test_a_record_gets_exactly_what_the_contract_says(harness: Harness, case: Case) -> None:
    """Its response, its dead letter, or both; and the next record of its partition is answered."""
    partition = harness.next_partition()
    value = harness.named(case.value)
    source = await harness.send(partition, case.key, value, case.headers, case.age_ms)
    next_source = await harness.send(partition, b"u2", harness.named(body(request_id="next")))
    harness.expected_responses += [source] * (case.answer is not None) + [next_source]
    harness.expected_dead_letters += [source] * (case.dead is not None)
    await harness.log.until(
        lambda: (
            harness.responses(next_source)
            and len(harness.responses(source)) == (case.answer is not None)
            and len(harness.dead_letters(source)) == (case.dead is not None)
        ),
        f"a response ({case.answer}), a dead letter ({case.dead}) and the next response",
    )
    for response in harness.responses(source):
        check_response(response, case, harness.model, partition, source)
    for letter in harness.dead_letters(source):
        check_dead_letter(letter, case, value, source)
    (following,) = harness.responses(next_source)
    assert orjson.loads(following.value)["predictions"] == predictions_of("v1", 1)


async def test_nothing_else_was_written(harness: Harness) -> None:
    """After an orderly end there is one response and one dead letter for each that was due, no more."""
    harness.worker.terminate()
    assert await harness.worker.ended() == 0
    await harness.log.to_end()
    for topic, expected in (
        (harness.settings.topic_responses, harness.expected_responses),
        (harness.settings.topic_dead_letters, harness.expected_dead_letters),
    ):
        written = [dict(record.headers)["headrace-source"].decode() for record in harness.log.of(topic)]
        assert sorted(written) == sorted(expected)


def check_response(record: ConsumerRecord, case: Case, model: str, partition: int, source: str) -> None:
    """A response, to the last field and header."""
    assert (record.partition, record.key) == (partition, case.key)
    answer = orjson.loads(record.value)
    PUBLISHED.validate(answer)
    response = PredictResponse.model_validate(answer)
    good = case.answer == "ok"
    assert answer.keys() == RESPONSE_FIELDS | {"predictions" if good else "error"}
    echo = {"request_id": REQUEST_ID, "model_name": model, "user_id": "u1"} | (case.echo or {})
    assert {name: answer[name] for name in echo} == echo
    assert response.model_version == case.version
    assert (response.revision > 0) is case.revision_known
    assert response.stale is False
    if response.error is None:
        assert response.predictions == predictions_of("v1", 1)
    else:
        assert response.error.code == case.answer
        assert response.error.message
        assert sorted(detail.path for detail in response.error.details) == sorted(case.details)
        assert all(detail.message for detail in response.error.details)
        assert response.cached is False
        assert len(record.value) < 10_000, "what was wrong is not sent back"
    headers = list(record.headers)
    if good or case.answer == "INVALID_OUTPUT":
        digest = dict(headers)["headrace-input-digest"]
        assert len(bytes.fromhex(digest.decode())) == 16
        headers.remove(("headrace-input-digest", digest))
    headers.remove(("headrace-topic-id", topic_id_of(record)))
    assert sorted(headers) == sorted(
        [("headrace-source", source.encode()), ("content-type", b"application/json"), *case.carried]
    )


def topic_id_of(record: ConsumerRecord) -> bytes:
    topic_id: bytes = dict(record.headers)["headrace-topic-id"]
    assert len(topic_id) == len("lkPnO4j0QXq3yCXqWd4uHg")
    return topic_id


def check_dead_letter(record: ConsumerRecord, case: Case, value: bytes | None, source: str) -> None:
    """The original record, and the headers that say why and where from."""
    assert (record.key, record.value) == (case.key, value)
    # The headers of an earlier dead letter are replaced.
    kept = [header for header in case.headers if not header[0].startswith("headrace-")]
    original = len(kept)
    assert list(record.headers[:original]) == kept
    added = dict(record.headers[original:])
    assert len(added) == len(record.headers) - original
    topic, partition, offset = source.encode().split(b"/")
    assert case.dead is not None
    message = added.pop("headrace-error-message")
    assert 0 < len(message.decode()) <= 1024
    assert added.pop("__connect.errors.exception.message") == message
    assert added.pop("__connect.errors.exception.class.name").decode().endswith("Error")
    if case.version:
        assert added.pop("headrace-model-version") == case.version.encode()
    assert added == {
        "headrace-source": source.encode(),
        "headrace-topic-id": topic_id_of(record),
        "headrace-error-code": case.dead.encode(),
        "headrace-attempts": b"1",
        "__connect.errors.topic": topic,
        "__connect.errors.partition": partition,
        "__connect.errors.offset": offset,
    }

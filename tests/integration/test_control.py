"""What may arrive in `model-promotions` and what becomes of it, through a real broker and a real control worker."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer, ConsumerRecord

from registry.history import history
from registry.snapshot import RegisteredModel
from registry.store import RegistryStore
from schemas.events import JsonObject
from schemas.models import PromotionResult
from schemas.wire import MAX_RECORD_BYTES
from streams.config.settings import Settings
from tests.support.kafka.administration import DEFAULT_MESSAGE_BYTES, set_message_limits
from tests.support.kafka.topic_log import TopicLog, topic_log, uncommitted_promotions
from tests.support.models.served_model import apply
from tests.support.promotions.bad_events import CASES, LARGEST_EVENT_BYTES, LIFE, Case, encoded
from tests.support.promotions.events import document, event, spec
from tests.support.stack.services import StackAddresses, own_database, own_topics
from tests.support.worker.process import WorkerProcess, worker_processes

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("control")]

PUBLISHED = jsonschema_rs.Draft202012Validator(
    json.loads((Path(__file__).parents[2] / "docs/schemas/PromotionResult.json").read_text())
)
MODELS = ("m", "first", "idle", "new", "nobody")


class Harness:
    """The control worker, its topics and its registry."""

    def __init__(
        self,
        settings: Settings,
        store: RegistryStore,
        log: TopicLog,
        producer: AIOKafkaProducer,
        worker: WorkerProcess,
    ) -> None:
        self.settings = settings
        self.store = store
        self.log = log
        self.worker = worker
        self.sources: list[bytes] = []
        self.applied: list[str] = []
        self._producer = producer

    async def decide(self, *values: JsonObject | bytes) -> list[PromotionResult]:
        """Write events, one behind the other; their results."""
        records = await self.answered(
            *((b"m", one if isinstance(one, bytes) else encoded(one)) for one in values)
        )
        return [PromotionResult.model_validate_json(record.value) for record in records]

    async def answered(self, *keyed: tuple[bytes | None, bytes | None]) -> list[ConsumerRecord]:
        """Write records, one behind the other; those that the worker writes for them."""
        topic = self.settings.topic_promotions
        deliveries = []
        for key, value in keyed:
            # A batch, because a single send takes no record without both key and value.
            batch = self._producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
            deliveries.append(await self._producer.send_batch(batch, topic, partition=0))
        places = [await delivery for delivery in deliveries]
        sources = [b"%b/0/%d" % (topic.encode(), place.offset) for place in places]
        self.sources += sources
        results = self.log.of(self.settings.topic_promotion_results)
        await self.log.until(
            lambda: {source_of(record) for record in results} >= set(sources),
            f"a result for each of {sources}",
        )
        answers = {source_of(record): record for record in results}
        return [answers[source] for source in sources]

    async def state(self) -> tuple[int, list[RegisteredModel | None]]:
        """The epoch, and the models that the cases name."""
        return await self.store.epoch(), [await self.store.find(name) for name in MODELS]

    def good(self) -> JsonObject:
        """An event that is applied, whatever was before it."""
        body = document("reshuffle", "busy", salt=f"salt-{len(self.applied)}")
        self.applied.append(body["event_id"])
        return body


def source_of(record: ConsumerRecord) -> bytes:
    source: bytes = dict(record.headers)["headrace-source"]
    return source


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harness(stack: StackAddresses) -> AsyncIterator[Harness]:
    """One worker for all cases, which follow each other on the one partition."""
    async with own_database(stack) as dsn, own_topics(stack) as make_topics:
        await apply(dsn, *LIFE, event("register", "busy", model=spec("v1")))
        settings = await make_topics(1, postgres_dsn=dsn)
        # The topic of events accepts larger records than the worker; that of results has Kafka's default limit.
        limits = {
            settings.topic_promotions: LARGEST_EVENT_BYTES,
            settings.topic_promotion_results: DEFAULT_MESSAGE_BYTES,
        }
        await set_message_limits(settings, limits)
        store = await RegistryStore.connect(dsn)
        producer = AIOKafkaProducer(
            bootstrap_servers=settings.kafka_bootstrap, max_request_size=LARGEST_EVENT_BYTES
        )
        await producer.start()
        with worker_processes() as start_worker:
            worker = start_worker(settings, roles="control")
            async with topic_log(settings.kafka_bootstrap, settings.topic_promotion_results) as log:
                yield Harness(settings, store, log, producer, worker)
        await producer.stop()
        await store.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.encode("ascii", "replace").decode())
async def test_a_bad_event_is_refused_in_words_and_changes_nothing(harness: Harness, case: Case) -> None:
    """Its result has the code of the contract, and the next event is applied as if it had not been there."""
    epoch, models = await harness.state()
    refusal, following = await harness.answered((case.key, case.value), (b"busy", encoded(harness.good())))
    result = PromotionResult.model_validate_json(refusal.value)
    assert (result.status, result.error and result.error.code) == ("rejected", case.code), result
    assert result.error is not None
    assert 10 < len(result.error.message) <= 2000, "a sentence, whatever the event holds"
    for name, value in case.echo.items():
        assert getattr(result, name) == value
    check_record(refusal, case.key)
    after = PromotionResult.model_validate_json(following.value)
    assert (after.status, after.epoch) == ("applied", epoch + 1)
    assert await harness.state() == (epoch + 1, models)


def check_record(record: ConsumerRecord, key: bytes | None) -> None:
    """What every record on the results topic has; `key` is that of its event."""
    body = orjson.loads(record.value)
    PUBLISHED.validate(body)
    headers = dict(record.headers)
    assert headers.pop("headrace-topic-id")
    assert headers == {"headrace-source": source_of(record), "content-type": b"application/json"}
    if body["model_name"]:
        assert record.key == body["model_name"].encode()
    else:
        assert record.key == (key if key is None or len(key) < 1000 else None)


async def test_a_refusal_tells_where_the_model_is(harness: Harness) -> None:
    """It has revision, epoch and route; for an unknown model these are absent."""
    known, unknown = await harness.decide(document("promote", version="old"), document("rollback", "nobody"))
    model = await harness.store.find("m")
    assert model is not None
    assert (known.revision, known.route, known.epoch) == (
        model.revision,
        model.route,
        await harness.store.epoch(),
    )
    assert (unknown.revision, unknown.route) == (0, None)


async def test_events_are_decided_in_their_order_and_once_each(harness: Harness) -> None:
    """A whole life, each event three times: an event that comes too early is refused, and again when repeated."""
    life = [
        document("promote", "life", version="v1"),
        document("register", "life", model=spec("v1")),
        document("promote", "life", version="v1"),
        document("canary", "life", version="v2", weight=5, expected_revision=2),
        document("register", "life", model=spec("v2")),
        document("register", "life", model=spec("v2")),
        document("canary", "life", version="v2", weight=5, expected_revision=3),
        document("canary", "life", version="v2", weight=6, expected_revision=3),
        document("promote", "life", version="v2"),
        document("rollback", "life"),
        document("rollback", "life"),
    ]
    epoch = await harness.store.epoch()
    results = await harness.decide(*life, *life, *reversed(life))
    first = results[: len(life)]
    assert results == [*first, *first, *reversed(first)], "a replay has the result of the first time"
    codes = [result.error and result.error.code for result in first]
    assert codes == [
        "UNKNOWN_MODEL",
        None,
        None,
        "UNKNOWN_VERSION",
        None,
        None,
        None,
        "STALE_REVISION",
        None,
        None,
        "ILLEGAL_TRANSITION",
    ]
    assert [result.revision for result in first if result.unchanged] == [3], "the same version again"
    applied = [result for result in first if result.status == "applied" and not result.unchanged]
    assert [result.revision for result in applied] == list(range(1, 7))
    assert [result.epoch for result in applied] == list(range(epoch + 1, epoch + 7))
    harness.applied += [result.event_id for result in applied]
    changes = await history(harness.store.database, "life")
    assert [(change.event_id, change.revision, change.route) for change in changes] == [
        (result.event_id, result.revision, result.route) for result in applied
    ]


async def test_the_first_body_has_the_id(harness: Harness) -> None:
    """Another body under the id of a decided event is a conflict; a malformed event has taken no id."""
    good = harness.good()
    refused = document("promote", version="v9")
    malformed = {**harness.good(), "salt": 7}
    results = await harness.decide(
        good,
        {**good, "reason": "another"},
        good,
        # Unknown fields and another spelling of the same JSON do not make another body.
        dict(reversed({**good, "unknown": [1]}.items())),
        refused,
        {**refused, "version": "v3"},
        refused,
        malformed,
        {**malformed, "salt": "a salt"},
    )
    assert [result.error.code if result.error else "applied" for result in results] == [
        *("applied", "EVENT_CONFLICT", "applied", "applied"),
        *("UNKNOWN_VERSION", "EVENT_CONFLICT", "UNKNOWN_VERSION"),
        *("INVALID_EVENT", "applied"),
    ]
    assert results[0] == results[2] == results[3]
    assert results[4] == results[6]


async def test_limits_that_are_kept_are_taken(harness: Harness) -> None:
    """The largest event, the longest names, the smallest and the largest weight."""
    longest = ["m" * 63, "V" * 64, "i" * 128, "s" * 128]
    values: Sequence[Any] = [
        document("register", longest[0], event_id=longest[2], model=spec(longest[1])),
        document("promote", longest[0], version=longest[1]),
        document("register", longest[0], model=spec("v2")),
        document("canary", longest[0], version="v2", weight=0.01),
        document("canary", longest[0], version="v2", weight=99.99),
        document("reshuffle", longest[0], salt=longest[3], actor="é" * 128, reason="é" * 1000),
    ]
    largest = document("rollback", longest[0], ignored="")
    largest["ignored"] = "x" * (MAX_RECORD_BYTES - len(encoded(largest)))
    results = await harness.decide(*values, largest)
    assert [result.error for result in results] == [None] * 7
    harness.applied += [result.event_id for result in results]


async def test_nothing_else_was_applied_and_all_is_committed(harness: Harness) -> None:
    """In the end there is one result for each record, and one change for each event that was to be applied."""
    harness.worker.terminate()
    assert await harness.worker.ended() == 0
    assert await uncommitted_promotions(harness.settings) == 0
    await harness.log.to_end()
    written = [source_of(record) for record in harness.log.of(harness.settings.topic_promotion_results)]
    assert written == harness.sources
    changed = [
        change.event_id
        for name in ("busy", "life", "m" * 63)
        for change in await history(harness.store.database, name)
    ]
    # The first one is the registration of `busy`.
    assert sorted(changed[1:]) == sorted(harness.applied)
    assert await harness.store.epoch() == len(LIFE) + 1 + len(harness.applied)

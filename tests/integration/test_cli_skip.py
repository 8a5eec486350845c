"""`headrace skip` and `headrace skips`: a person makes the workers step over one record."""

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from streams.kafka.commit_metadata import BegunRange, CommitMetadata, encode_metadata
from tests.support.kafka.administration import commit_for, committed_offsets
from tests.support.kafka.topic_log import topic_log
from tests.support.stack.command import Ended, headrace
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

NEXT, RECORDS = 1, 3


@pytest.fixture
async def settings(topics: MakeTopics, database: str) -> Settings:
    """Three records, of which the first is read, and the next ended two processes."""
    settings = await topics(1, postgres_dsn=database)
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        for number in range(RECORDS):
            await producer.send_and_wait(settings.topic_requests, b"no request %d" % number)
    begun = CommitMetadata((BegunRange(NEXT + 1, 2), BegunRange(RECORDS, 1)))
    await commit_for(
        settings,
        settings.group_id,
        {TopicPartition(settings.topic_requests, 0): OffsetAndMetadata(NEXT, encode_metadata(begun))},
    )
    return settings


async def skip(settings: Settings, offset: int, *more: str, topic: str = "", partition: int = 0) -> Ended:
    arguments = ("--topic", topic or settings.topic_requests, "--partition", str(partition))
    reason = ("--offset", str(offset), "--reason", "it ends the workers", "--actor", "ann")
    return await headrace("skip", *arguments, *reason, *more, settings=settings)


async def test_a_record_is_skipped(settings: Settings, start_worker: StartWorker) -> None:
    """It leaves a dead letter and a row; the workers read on behind it."""
    assert (await headrace("skips", settings=settings)).stdout == "No record was skipped.\n"
    ended = await skip(settings, NEXT, "--json")
    assert ended.code == 0, ended.stderr
    (document,) = ended.documents
    assert document.pop("skipped_at").endswith("Z")
    assert document == {
        "group_id": settings.group_id,
        "topic": settings.topic_requests,
        "partition": 0,
        "offset": NEXT,
        "actor": "ann",
        "reason": "it ends the workers",
    }
    listed = (await headrace("skips", settings=settings)).stdout.splitlines()
    assert listed[0].split() == ["time", "record", "group", "actor", "reason"]
    place = f"{settings.topic_requests}/0/{NEXT}"
    assert listed[1].split()[1:] == [place, settings.group_id, "ann", *["it", "ends", "the", "workers"]]
    ((row,),) = (await headrace("skips", "--json", settings=settings)).documents
    assert row.items() >= document.items()
    committed = await committed_offsets(settings, settings.group_id)
    (left,) = committed.values()
    assert left.offset == NEXT + 1
    assert orjson.loads(left.metadata)["begun"] == [[RECORDS, 1]]
    async with topic_log(settings.kafka_bootstrap, settings.topic_dead_letters) as log:
        letters = log.of(settings.topic_dead_letters)
        worker = start_worker(settings)
        await log.until(lambda: len(letters) == 2, "the dead letters of both records")
        worker.terminate()
        assert await worker.ended() == 0
    skipped, behind = (dict(letter.headers) for letter in letters)
    assert skipped["headrace-source"] == place.encode()
    assert skipped["headrace-error-code"] == b"SKIPPED_RECORD"
    assert skipped["headrace-error-message"] == b"it ends the workers"
    assert skipped["headrace-attempts"] == b"2"
    assert behind["headrace-source"] == f"{settings.topic_requests}/0/{NEXT + 1}".encode()
    assert behind["headrace-attempts"] == b"2"


async def test_other_records_are_not_skipped(settings: Settings) -> None:
    """Only the next one of a topic that workers read; nothing is written then."""
    for refused, says in [
        (await skip(settings, NEXT - 1), f"reads offset {NEXT} of {settings.topic_requests}/0 next"),
        (await skip(settings, NEXT + 1), f"reads offset {NEXT} of {settings.topic_requests}/0 next"),
        (await skip(settings, NEXT, partition=7), "has no partition 7: it has 0 to 0"),
        (await skip(settings, 0, topic="elsewhere"), "no worker reads the topic elsewhere"),
        (await skip(settings, 0, topic=settings.topic_promotions), "there is nothing to skip"),
        (await skip(settings, NEXT, "--actor", "a" * 129), "actor"),
        (await skip(settings, NEXT, "--reason", ""), "reason"),
    ]:
        assert refused.code == REFUSED
        assert says in refused.stderr
    assert (await headrace("skips", "--json", settings=settings)).documents == [[]]
    (left,) = (await committed_offsets(settings, settings.group_id)).values()
    assert left.offset == NEXT


async def test_nothing_is_skipped_while_workers_run(settings: Settings, start_worker: StartWorker) -> None:
    """The refusal says what to do first."""
    worker = start_worker(settings)
    await worker.ready()
    await worker.logged("partitions assigned")
    refused = await skip(settings, NEXT, "--json")
    assert refused.code == REFUSED
    assert "stop its workers first" in refused.stderr
    assert refused.documents[0]["error"]["code"] == "INVALID_REQUEST"
    worker.terminate()
    assert await worker.ended() == 0

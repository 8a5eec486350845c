"""streams/kafka/tail.py on a real broker, while its topic is made anew or grows: no record is missed or repeated."""

import asyncio
from collections.abc import Iterable

from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewPartitions

from streams.config.settings import Settings
from streams.kafka.tail import Tail, open_tail
from streams.kafka.topics import administration
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.kafka.administration import make_anew, until_known
from tests.support.stack.services import MakeTopics


async def send(settings: Settings, values: Iterable[str], partition: int = 0) -> None:
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        await until_known(producer, settings.topic_responses, partition)
        for value in values:
            await producer.send_and_wait(settings.topic_responses, value.encode(), partition=partition)


async def read(tail: Tail, count: int) -> set[str]:
    """The next records, none of them twice, and no more than so many."""
    values: list[str] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(values) < count:
            values += [record.value.decode() for record in await tail.next_records() if record.value]
    assert len(values) == count
    assert not await tail.next_records(1)
    return set(values)


async def test_a_topic_made_anew_is_read_from_its_beginning(topics: MakeTopics) -> None:
    """Twice; the new one has more records than the old position says, and more partitions."""
    settings = await topics(1)
    await send(settings, ["before"])
    async with open_tail(settings, settings.topic_responses) as tail:
        old = [f"old{number}" for number in range(5)]
        await send(settings, old)
        assert await read(tail, len(old)) == set(old)
        for round_ in "ab":
            await make_anew(settings, settings.topic_responses, 2)
            new = [f"{round_}{number}" for number in range(10)]
            await send(settings, new)
            await send(settings, [f"{round_}-other"], partition=1)
            assert await read(tail, len(new) + 1) == {*new, f"{round_}-other"}


async def test_a_topic_that_is_away_for_a_while(topics: MakeTopics) -> None:
    """The reader sees it missing."""
    settings = await topics(1)
    async with open_tail(settings, settings.topic_responses) as tail:
        await send(settings, ["old"])
        assert await read(tail, 1) == {"old"}
        async with administration(settings) as admin:
            await admin.delete_topics([settings.topic_responses])
        async with asyncio.timeout(DEADLINE_SECONDS):
            while tail._consumer.assignment():
                assert not await tail.next_records(100)
        assert not await tail.next_records(100)
        await make_anew(settings, settings.topic_responses, 1)
        await send(settings, ["new"])
        assert await read(tail, 1) == {"new"}


async def test_partitions_that_are_added_are_read_from_their_beginning(topics: MakeTopics) -> None:
    """And the others where the reader was."""
    settings = await topics(1)
    async with open_tail(settings, settings.topic_responses) as tail:
        await send(settings, ["old"])
        assert await read(tail, 1) == {"old"}
        async with administration(settings) as admin:
            await admin.create_partitions({settings.topic_responses: NewPartitions(2)})
        await send(settings, ["added"], partition=1)
        await send(settings, ["next"])
        # aiokafka looks each five minutes by itself.
        await tail._consumer._client.force_metadata_update()
        assert await read(tail, 2) == {"added", "next"}

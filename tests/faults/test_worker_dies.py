"""Workers that die, end, hang or join under load: every request is answered, by whoever is left."""

import asyncio

import orjson
from aiokafka import AIOKafkaProducer

from tests.support.deadline import wait_until
from tests.support.kafka.administration import members
from tests.support.kafka.topic_log import committed_requests, topic_log, uncommitted_requests
from tests.support.worker.group import MakeGroup, WorkerGroup
from tests.support.worker.process import StartWorker
from tests.support.worker.traffic import PARTITIONS

BACKLOG = 40_000
LEFT = "left the group for a process that has ended"


async def test_a_worker_is_killed(make_group: MakeGroup) -> None:
    """After kill -9 the other one takes all partitions.

    An answer is repeated only if its offset was not committed by the kill, and once only.
    """
    group = await make_group()
    one, two = await group.start("one", "two")
    async with group.traffic() as traffic:
        await traffic.until_served_by("one", "two")

        async def commits() -> list[int]:
            offsets = await committed_requests(group.settings, PARTITIONS)
            return offsets if all(offsets) else []

        committed = await wait_until(commits, "committed offsets on every partition")
        one.kill()
        sent_by_the_kill = len(traffic.sent)
        await traffic.until_answered()
        await traffic.end()
        for number in traffic.repeated():
            place = traffic.sent[number].result()
            assert number < sent_by_the_kill
            assert place.offset >= committed[place.partition]
            assert len(traffic.answers[number]) == 2
    await group.end(two)


async def test_a_process_that_has_ended_is_not_waited_for(
    make_group: MakeGroup, start_worker: StartWorker
) -> None:
    """The next worker on the machine leaves the group for the killed one, and not for one that is only paused."""
    group = await make_group(timeout_ms=60_000)
    settings = group.settings
    one, two = await group.start("one", "two")
    async with group.traffic() as traffic:
        await traffic.until_served_by("one", "two")
        joined = await members(settings, settings.group_id)
        one.kill()
        await one.ended()
        two.pause()
        three = start_worker(settings.model_copy(update={"worker_name": "three"}))
        left = await three.logged(LEFT)
        two.resume()
        # The broker has answered that it was still a member: its session had not ended.
        assert left["member"] == joined["headrace-one-predict"]
        await traffic.until_served_by("two", "three")
        await traffic.until_answered()
        await traffic.end()
        assert three.count(LEFT) == 1
        assert joined["headrace-two-predict"] in (await members(settings, settings.group_id)).values()
    await group.end(two, three)


async def test_a_worker_ends_in_the_middle_of_a_backlog(make_group: MakeGroup) -> None:
    """It commits everything that it has answered: the next one continues there, and repeats nothing."""
    group = await make_group()
    async with topic_log(group.settings.kafka_bootstrap, group.settings.topic_responses) as log:
        responses = log.of(group.settings.topic_responses)
        await send_backlog(group)
        (one,) = await group.start("one")
        await log.until(lambda: len(responses) > BACKLOG // 10, "the first responses")
        one.terminate()
        assert await one.ended() == 0
        await log.to_end()
        assert len(responses) + await uncommitted_requests(group.settings, PARTITIONS) == BACKLOG
        (two,) = await group.start("two")
        await log.until(lambda: len(responses) >= BACKLOG, "all responses")
        await group.end(two)
        await log.to_end()
        sources = {dict(record.headers)["headrace-source"] for record in responses}
        assert len(sources) == len(responses) == BACKLOG


async def test_workers_end_and_join(make_group: MakeGroup) -> None:
    """SIGTERM and the start of another one lose nothing and repeat nothing."""
    group = await make_group()
    one, two = await group.start("one", "two")
    async with group.traffic() as traffic:
        await traffic.until_served_by("one", "two")
        one.terminate()
        assert await one.ended() == 0
        await traffic.until_answered()
        (three,) = await group.start("three")
        await traffic.until_served_by("two", "three")
        assert await traffic.end() == 0
    await group.end(two, three)


async def test_a_worker_hangs_and_comes_back(make_group: MakeGroup) -> None:
    """Paused for longer than its session, then resumed: the other serves its partitions, and gives some back."""
    # A call outlasts the pause of its worker, so that a late answer is not an error.
    group = await make_group(timeout_ms=60_000)
    one, two = await group.start("one", "two")
    async with group.traffic() as traffic:
        await traffic.until_served_by("one", "two")
        one.pause()
        await traffic.until_answered()
        # It cannot commit offsets before it is a member again; those answers would be repeated.
        rejoined = [worker.logged_again("partitions assigned") for worker in (one, two)]
        one.resume()
        await asyncio.gather(*rejoined)
        await traffic.until_served_by("one", "two")
        await traffic.end()
    await group.end(one, two)


async def send_backlog(group: WorkerGroup) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=group.settings.kafka_bootstrap, linger_ms=20, max_batch_size=256 * 1024
    ) as producer:
        for number in range(BACKLOG):
            request = {
                "request_id": str(number),
                "model_name": group.model,
                "user_id": f"u{number}",
                "input": {"x": number},
            }
            await producer.send(
                group.settings.topic_requests, orjson.dumps(request), partition=number % PARTITIONS
            )

"""streams/headrace_client on a real broker: which partitions it reads, and what it survives; the rest is with the clients.

`tests/clients` has its wheel in an environment of its own, beside a real worker.
"""

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewPartitions

from schemas.events import JsonObject, Outcome
from streams.config.settings import Settings
from streams.headrace_client import (
    Client,
    InvalidRequestError,
    NoResponseError,
    NotReachableError,
    OverloadedError,
    SetupError,
    Topics,
    kafka_link,
)
from streams.headrace_client.kafka_link import KafkaLink
from streams.kafka.topics import administration
from tests.support.deadline import deadline, wait_until
from tests.support.kafka.echo_responder import echo, failing, responder
from tests.support.kafka.raw_batches import change_batch, sealed
from tests.support.kafka.topic_log import topic_log
from tests.support.stack.services import MakeTopics

PARTITIONS = 4


def client_of(settings: Settings) -> Client:
    names = Topics.__dataclass_fields__
    return Client(
        settings.kafka_bootstrap,
        topics=Topics(**{name: getattr(settings, f"topic_{name}") for name in names}),
    )


async def link_of(client: Client) -> KafkaLink:
    assert client._predictions is not None
    link = await client._predictions.connected()
    assert isinstance(link, KafkaLink)
    return link


class Fetched:
    """Counts the records that a link fetches, by their partition."""

    def __init__(self, link: KafkaLink) -> None:
        self.counts: Counter[int] = Counter()
        self._fetch = link._fetch
        link._fetch = self

    async def __call__(self) -> Any:
        records = list(await self._fetch())
        self.counts.update(record.partition for record in records)  # type: ignore[attr-defined]
        return records


async def test_it_reads_the_partition_in_which_it_awaits_a_response(topics: MakeTopics) -> None:
    """Of a busy topic it fetches a quarter for one user; a response in another partition is not for it."""
    settings = await topics(PARTITIONS)
    async with (
        responder(settings),
        client_of(settings) as client,
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer,
    ):
        await client.predict("m", user_id="u", input={"n": 0})
        link = await link_of(client)
        (partition,) = link.partitions
        fetched = Fetched(link)
        # Ends the fetch that has begun.
        await client.predict("m", user_id="u", input={"n": 0})
        for number in range(400):
            await producer.send(settings.topic_responses, b"{}", key=b"x", partition=number % PARTITIONS)
        await producer.flush()
        response = await client.predict("m", user_id="u", input={"n": 1})
        assert response.predictions == {"n": 1}
        assert set(fetched.counts) == {partition}
        assert fetched.counts[partition] >= 100


async def test_many_tasks_share_it_for_users_of_all_partitions(topics: MakeTopics) -> None:
    settings = await topics(PARTITIONS)
    async with responder(settings), client_of(settings) as client:
        responses = await asyncio.gather(
            *(client.predict("m", user_id=f"u{number}", input={"n": number}) for number in range(200))
        )
        assert [response.predictions["n"] for response in responses] == list(range(200))
        assert sorted((await link_of(client)).partitions) == list(range(PARTITIONS))


async def test_a_partition_is_left_when_nothing_is_awaited_there(
    topics: MakeTopics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read again from its end when it is needed again."""
    monkeypatch.setattr(kafka_link, "READ_ON_SECONDS", 0.0)
    settings = await topics(PARTITIONS)
    async with responder(settings), client_of(settings) as client:
        for number in range(2):
            response = await client.predict("m", user_id="u", input={"n": number})
            assert response.predictions == {"n": number}
            link = await link_of(client)

            async def none_is_read(link: KafkaLink = link) -> bool:
                return not link.partitions

            await wait_until(none_is_read, "no partition is read")


async def test_partitions_that_are_added_are_used(topics: MakeTopics) -> None:
    """In either order; what is awaited meanwhile is answered."""
    settings = await topics(1)
    async with client_of(settings) as client:
        async with responder(settings):
            await client.predict("m", user_id="u", input={})
        link = await link_of(client)
        for topic in (settings.topic_requests, settings.topic_responses):
            async with administration(settings) as admin:
                await admin.create_partitions({topic: NewPartitions(PARTITIONS)})

            async def known(topic: str = topic) -> bool:
                await link._producer.client.force_metadata_update()
                return len(await link._producer.partitions_for(topic)) == PARTITIONS

            await wait_until(known, f"all partitions of {topic} are known")
            async with responder(settings):
                responses = await asyncio.gather(
                    *(client.predict("m", user_id=f"u{number}", input={"n": number}) for number in range(20))
                )
            assert [response.predictions["n"] for response in responses] == list(range(20))
        assert len(link.partitions) == PARTITIONS


async def test_what_cannot_be_read_is_passed_over(topics: MakeTopics) -> None:
    """Aiokafka refuses a header whose name is not UTF-8, each time that it is fetched."""
    settings = await topics(1)
    async with (
        responder(settings),
        client_of(settings) as client,
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer,
    ):
        await client.predict("m", user_id="u", input={})
        batch: Any = producer.create_batch()
        batch.append(key=b"u", value=b"{}", timestamp=int(time.time() * 1000), headers=[("name", b"")])
        broken = change_batch(batch, lambda raw: sealed(raw.replace(b"name", b"\xff\xff\xff\xff")))
        await (await producer.send_batch(broken, settings.topic_responses, partition=0))

        async def answered() -> bool:
            # A response that comes before the broken batch is passed over would be passed over with it.
            try:
                response = await client.predict("m", user_id="u", input={"n": 1}, timeout_seconds=2)
            except NoResponseError:
                return False
            return bool(response.predictions == {"n": 1})

        await wait_until(answered, "a response behind it")


async def test_an_outcome_is_in_its_topic(topics: MakeTopics) -> None:
    """With the user as its key; its id is returned, and may be given."""
    settings = await topics(1)
    async with (
        topic_log(settings.kafka_bootstrap, settings.topic_outcomes) as log,
        client_of(settings) as client,
    ):
        first = await client.outcome("m", user_id="u", name="click", request_id="r1")
        second = await client.outcome("m", user_id="u", name="sale", value=9.5, outcome_id="o2")
        await log.until(lambda: len(log.of(settings.topic_outcomes)) == 2, "two outcomes")
        records = log.of(settings.topic_outcomes)
    outcomes = [Outcome.model_validate_json(record.value) for record in records]
    assert [outcome.outcome_id for outcome in outcomes] == [first, second] == [first, "o2"]
    assert {record.key for record in records} == {b"u"}


async def test_errors_say_what_to_do(topics: MakeTopics) -> None:
    def overloaded(request: JsonObject) -> JsonObject | None:
        response = failing(request)
        if response is not None and "error" in response:
            response["error"] |= {"code": "OVERLOADED", "message": "too many"}
        return response

    settings = await topics(1)
    async with client_of(settings) as client:
        with pytest.raises(NoResponseError, match="is a worker running"):
            await client.predict("m", user_id="u", input={}, timeout_seconds=0.5)
        with pytest.raises(NoResponseError, match="does a worker have the role `control`"):
            await client.promote("m", "v1", timeout_seconds=0.5)
        with pytest.raises(InvalidRequestError, match="at most 1048576"):
            await client.predict("m", user_id="u", input={"text": "x" * 2_000_000})
        async with responder(settings, overloaded):
            with pytest.raises(OverloadedError, match="too many"):
                await client.predict("m", user_id="u", input={"fail": True})
    absent = Client(settings.kafka_bootstrap, topics=Topics(requests="absent", outcomes="absent"))
    async with absent:
        with pytest.raises(SetupError, match="has no topic absent"):
            await absent.outcome("m", user_id="u", name="click")
    # Port 1 is reserved and no server listens on it.
    async with Client("127.0.0.1:1") as client:
        for call in (
            client.predict("m", user_id="u", input={}),
            client.outcome("m", user_id="u", name="click"),
        ):
            with pytest.raises(NotReachableError, match=r"127\.0\.0\.1:1"):
                await call


async def test_it_connects_again_after_the_connection_ended(topics: MakeTopics) -> None:
    """What waits fails with the reason, and the next call succeeds."""
    settings = await topics(1)
    asked = asyncio.Event()

    def silent_first(request: JsonObject) -> JsonObject | None:
        if request["input"].get("silent"):
            asked.set()
            return None
        return echo(request)

    async with responder(settings, silent_first), client_of(settings) as client:
        waiting = asyncio.create_task(client.predict("m", user_id="u", input={"silent": True}))
        async with deadline("the request is there"):
            await asked.wait()
        assert client._predictions is not None
        await client._predictions.close()
        with pytest.raises(NotReachableError, match="closed"):
            await waiting
        assert (await client.predict("m", user_id="u", input={"n": 1})).predictions == {"n": 1}

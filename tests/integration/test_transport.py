"""streams/kafka/transport.py on a real broker: slices that are dispatched, held back, and committed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiokafka
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.config.settings import Settings
from streams.kafka.aiokafka_consumer import TransportOptions
from streams.kafka.batch_producer import BatchProducer, OutputBatch
from streams.kafka.faust_app import WorkerApp, consumer_of, worker_app
from streams.kafka.memberships import members_folder
from streams.kafka.offset_tracker import FULL_SLICE_WEIGHT, Record, Row, Slice
from streams.kafka.record_source import Headers
from streams.kafka.slice_agent import slice_agent
from streams.kafka.stepping_over import StepOver
from streams.kafka.transport import SliceConsumer
from tests.support.deadline import DEADLINE_SECONDS, Signal, wait_until
from tests.support.kafka.administration import commit_for, committed_offsets, delete_records, make_anew
from tests.support.kafka.topic_log import topic_log
from tests.support.stack.services import MakeTopics

MAX_OUTSTANDING = 4
ROWS = 500


class Handled:
    """Slices as an agent gets them; each waits until the test lets it go."""

    def __init__(self, *, hold: bool = False) -> None:
        self.slices: list[Slice] = []
        self.hold = hold
        self.slices_before = 0
        self.records: list[list[Record]] = []
        self._released: dict[int, asyncio.Event] = {}
        self._changed = asyncio.Condition()

    async def __call__(self, handled: Slice) -> None:
        released = self._released[id(handled)] = asyncio.Event()
        async with self._changed:
            self.slices.append(handled)
            # The slice has none any more when it is acknowledged.
            self.records.append(list(handled.records))
            self._changed.notify_all()
        if self.hold:
            await released.wait()

    def release(self, handled: Slice) -> None:
        self._released[id(handled)].set()

    def has_more(self) -> bool:
        """Whether anything came since `slices_before`."""
        return len(self.slices) > self.slices_before

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS), self._changed:
            await self._changed.wait_for(holds)

    @property
    def offsets(self) -> list[int]:
        return [record.offset for records in self.records for record in records]


async def nothing_to_send(headers: Headers) -> None:
    raise AssertionError(f"unexpected dead letter: {headers}")


@asynccontextmanager
async def running(
    settings: Settings, handle: Callable[[Slice], Awaitable[None]], *, slice_max_records: int = 10
) -> AsyncIterator[WorkerApp]:
    faults: list[BaseException] = []
    app = worker_app(
        TransportOptions(
            bootstrap=settings.kafka_bootstrap,
            group_id=settings.group_id,
            client_id="transport-test",
            slice_max_records=slice_max_records,
            max_outstanding=MAX_OUTSTANDING,
            fetch_max_bytes=1024 * 1024,
            batch_max_bytes=64 * 1024 * 1024,
            members_folder=members_folder(settings),
        ),
        on_fault=faults.append,
    )
    slice_agent(
        app,
        settings.topic_requests,
        handle,
        step_over=StepOver(nothing_to_send),
        slices_in_flight=8,
        on_fault=faults.append,
    )
    await app.start()
    try:
        yield app
    finally:
        await app.stop()
    assert faults == []


async def produce(settings: Settings, count: int) -> None:
    """Records "0" to "count-1" to partition 0, in batches of ten."""
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()
    for start in range(0, count, 10):
        batch = producer.create_batch()
        for number in range(start, min(start + 10, count)):
            batch.append(timestamp=None, key=None, value=str(number).encode())
        await (await producer.send_batch(batch, settings.topic_requests, partition=0))
    await producer.stop()


async def committed(settings: Settings) -> int | None:
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, group_id=settings.group_id, enable_auto_commit=False
    )
    await consumer.start()
    offset: int | None = await consumer.committed(TopicPartition(settings.topic_requests, 0))
    await consumer.stop()
    return offset


async def test_slices_are_whole_and_in_order(topics: MakeTopics) -> None:
    """Every record comes once, in order, in slices of at most the asked size, and all is committed."""
    settings = await topics(partitions=1)
    await produce(settings, 95)
    handled = Handled()
    async with running(settings, handled):
        await handled.until(lambda: len(handled.offsets) == 95)
    assert handled.offsets == list(range(95))
    assert max(map(len, handled.records)) == 10
    assert await committed(settings) == 95


async def test_an_open_slice_holds_back_the_commit(topics: MakeTopics) -> None:
    """Later slices are done, the first is not: nothing is committed, and a restart repeats from there."""
    settings = await topics(partitions=1)
    await produce(settings, 30)
    handled = Handled(hold=True)
    async with running(settings, handled) as app:
        await handled.until(lambda: len(handled.slices) == 3)
        first, *later = handled.slices
        for done in later:
            handled.release(done)
        consumer = app.consumer
        assert isinstance(consumer, SliceConsumer)
        async with asyncio.timeout(DEADLINE_SECONDS):
            # An acknowledgement sends no signal; each turn of the event loop lets it arrive.
            while consumer.offsets.outstanding > first.weight:  # noqa: ASYNC110  # see above
                await asyncio.sleep(0)
        await consumer.commit()
        assert await committed(settings) == 0
        handled.release(first)
    assert await committed(settings) == 30


async def test_no_more_is_handed_out_than_allowed(topics: MakeTopics) -> None:
    """With nothing acknowledged, fetching stops at `max_outstanding` slices, and goes on with room."""
    settings = await topics(partitions=1)
    await produce(settings, 100)
    handled = Handled(hold=True)
    async with running(settings, handled) as app:
        await handled.until(lambda: len(handled.slices) == MAX_OUTSTANDING)
        consumer = app.consumer
        assert isinstance(consumer, SliceConsumer)
        assert consumer.offsets.outstanding == MAX_OUTSTANDING * FULL_SLICE_WEIGHT
        handled.release(handled.slices[0])
        await handled.until(lambda: len(handled.slices) == MAX_OUTSTANDING + 1)
        assert consumer.offsets.outstanding == MAX_OUTSTANDING * FULL_SLICE_WEIGHT
        assert consumer.lag() == 100 - 10 * (MAX_OUTSTANDING + 1)
        handled.hold = False
        for held in list(handled.slices):
            handled.release(held)
        await handled.until(lambda: len(handled.offsets) == 100)
    assert handled.offsets == list(range(100))


async def test_a_member_whose_slots_are_full_stays_in_its_group(topics: MakeTopics) -> None:
    """However long its slices take: it would leave without a line, and come back when one is done."""
    settings = await topics(partitions=1)
    await produce(settings, 100)
    handled, heartbeats = Handled(hold=True), Signal()
    sent = 0
    async with running(settings, handled) as app:
        coordinator = consumer_of(app).kafka._coordinator
        heartbeat = coordinator._do_heartbeat

        async def counted() -> bool:
            nonlocal sent
            sent += 1
            heartbeats.notify()
            is_member: bool = await heartbeat()
            return is_member

        coordinator._do_heartbeat = counted
        await handled.until(lambda: len(handled.slices) == MAX_OUTSTANDING)
        coordinator._max_poll_interval = 1.5
        member_id, generation, before = coordinator.member_id, coordinator.generation, sent
        try:
            await heartbeats.until(lambda: sent > before + 2 or not coordinator.member_id, "heartbeats")
        finally:
            afterwards = coordinator.member_id, coordinator.generation
            handled.hold = False
            for held in list(handled.slices):
                handled.release(held)
        await handled.until(lambda: len(handled.offsets) == 100)
    assert afterwards == (member_id, generation)
    assert await committed(settings) == 100


async def test_small_slices_that_wait_keep_no_others_back(topics: MakeTopics) -> None:
    """Those of a model server that hangs: far more of them than whole slices are worked on at once."""
    settings = await topics(partitions=1)
    handled = Handled(hold=True)
    count = 5 * MAX_OUTSTANDING
    async with running(settings, handled, slice_max_records=1000):
        for number in range(1, count + 1):
            await produce(settings, 1)
            await handled.until(lambda number=number: len(handled.offsets) == number)  # type: ignore[misc]  # bound now
        assert len(handled.slices) == count
        for held in handled.slices:
            handled.release(held)
    assert await committed(settings) == count


async def test_a_restart_goes_on_where_it_was(topics: MakeTopics) -> None:
    """After an orderly end no record comes again, and none is missing."""
    settings = await topics(partitions=1)
    await produce(settings, 20)
    first, second = Handled(), Handled()
    async with running(settings, first):
        await first.until(lambda: len(first.offsets) == 20)
    await produce(settings, 15)
    async with running(settings, second):
        await second.until(lambda: len(second.offsets) == 15)
    assert first.offsets + second.offsets == list(range(35))


async def test_batches_arrive_as_they_were_built(topics: MakeTopics) -> None:
    """Key, value, timestamp and headers, null ones among them, in the partition that was named."""
    settings = await topics(partitions=2)
    async with running(settings, Handled()) as app:
        producer = app.producer
        assert isinstance(producer, BatchProducer)
        batch = OutputBatch()
        assert batch.add(1_700_000_000_123, b"k", b"v", [("h", b"x"), ("empty", b"")])
        assert batch.add(1_700_000_000_124, None, None, [])
        delivered = await producer.send_batch(batch, settings.topic_responses, 1)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await delivered
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap)
    await consumer.start()
    consumer.assign([TopicPartition(settings.topic_responses, 1)])
    await consumer.seek_to_beginning()
    async with asyncio.timeout(DEADLINE_SECONDS):
        one, two = await consumer.getone(), await consumer.getone()
    await consumer.stop()
    assert (one.key, one.value, one.timestamp) == (b"k", b"v", 1_700_000_000_123)
    assert list(one.headers) == [("h", b"x"), ("empty", b"")]
    assert (two.key, two.value) == (None, None)


async def test_without_active_partitions_nothing_is_taken(topics: MakeTopics) -> None:
    """Between a revocation and the next assignment no partition is active; records fetched then would be lost."""
    settings = await topics(partitions=1)
    handled = Handled()
    async with running(settings, handled) as app:
        consumer = app.consumer
        assert isinstance(consumer, SliceConsumer)
        await produce(settings, 10)
        await handled.until(lambda: len(handled.offsets) == 10)
        await app._stop_fetcher()
        await produce(settings, 20)
        assert await consumer._getmany(set(), 5.0) == {}
        taken = await consumer._getmany(consumer.assignment(), DEADLINE_SECONDS)
        assert [records[0].offset for records in taken.values()] == [10]


async def test_rebalances_lose_nothing(topics: MakeTopics) -> None:
    """While others join and leave again and again, every record is dispatched."""
    settings = await topics(partitions=4)
    mine, theirs = Handled(), Handled()
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            await producer.send_and_wait(settings.topic_requests, b"%d" % sent, partition=sent % 4)
            sent += 1

    sending = asyncio.create_task(send())
    try:
        async with running(settings, mine):
            await mine.until(lambda: bool(mine.slices))
            for _ in range(3):
                theirs.slices_before = len(theirs.slices)
                async with running(settings, theirs):
                    await theirs.until(theirs.has_more)
            sending.cancel()
            await asyncio.wait([sending])

            def values() -> set[bytes | None]:
                return {record.value for records in (*mine.records, *theirs.records) for record in records}

            # One more may be there, whose sending was cancelled on its way.
            expected = {b"%d" % number for number in range(sent)}
            await mine.until(lambda: values() >= expected)
    finally:
        sending.cancel()
        await producer.stop()


async def test_what_joins_a_waiting_batch_arrives_with_it(topics: MakeTopics) -> None:
    """Whoever gives up waiting, and however many join, each row arrives once and in its order."""
    settings = await topics(partitions=1)
    topic = settings.topic_responses
    deliveries: list[asyncio.Future[Any]] = []
    joined = 0
    async with running(settings, Handled()) as app:
        producer = app.producer
        assert isinstance(producer, BatchProducer)
        for number in range(ROWS):
            row: Row = (number, None, b"%d" % number, [])
            count, delivered = producer.join([row], topic, 0)
            if delivered is None:
                assert count == 0
                batch = OutputBatch()
                assert batch.add(*row)
                delivered = await producer.send_batch(batch, topic, 0)
            else:
                joined += count
            if number % 3:
                deliveries.append(delivered)
            else:
                delivered.cancel()
            if not number % 7:
                await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.gather(*deliveries)
    assert joined > ROWS / 2
    async with topic_log(settings.kafka_bootstrap, topic) as log:
        await log.to_end()
        assert [record.timestamp for record in log.of(topic)] == list(range(ROWS))


async def test_an_offset_of_another_topic_is_not_taken(topics: MakeTopics) -> None:
    """The group has an offset of a topic of the same name, and the new topic has more records than it says."""
    settings = await topics(partitions=1)
    await produce(settings, 20)
    handled = Handled()
    async with running(settings, handled):
        await handled.until(lambda: len(handled.offsets) == 20)
    before = await committed_offsets(settings, settings.group_id)
    await make_anew(settings, settings.topic_requests, 1)
    await commit_for(settings, settings.group_id, before)
    await produce(settings, 50)
    handled = Handled()
    async with running(settings, handled) as app:
        await handled.until(lambda: len(handled.offsets) >= 50)
        assert consumer_of(app).topics.recreated_total == {settings.topic_requests: 1}
    assert handled.offsets == list(range(50))
    after = await committed_offsets(settings, settings.group_id)
    assert [each.offset for each in before.values()] == [20]
    assert [each.offset for each in after.values()] == [50]


async def test_an_offset_without_a_topic_is_taken(topics: MakeTopics) -> None:
    """As workers of earlier releases, and other tools, commit them."""
    settings = await topics(partitions=1)
    await produce(settings, 20)
    place = TopicPartition(settings.topic_requests, 0)
    await commit_for(settings, settings.group_id, {place: OffsetAndMetadata(15, "")})
    handled = Handled()
    async with running(settings, handled):
        await handled.until(lambda: len(handled.offsets) == 5)
    assert handled.offsets == list(range(15, 20))


async def until_committed(settings: Settings, offset: int) -> None:
    async def is_committed() -> bool:
        return await committed(settings) == offset

    await wait_until(is_committed, f"the commit of {offset}")


async def twenty_are_read(settings: Settings) -> None:
    """Records 0 to 19 are written, read and committed."""
    await produce(settings, 20)
    handled = Handled()
    async with running(settings, handled):
        await handled.until(lambda: len(handled.offsets) == 20)
        await until_committed(settings, 20)


async def test_deleted_records_are_counted(topics: MakeTopics) -> None:
    """Those that nobody had read, once."""
    settings = await topics(partitions=1)
    topic = settings.topic_requests
    await twenty_are_read(settings)
    await produce(settings, 80)
    await delete_records(settings, topic, 60)
    handled = Handled()
    async with running(settings, handled) as app:
        await handled.until(lambda: len(handled.offsets) == 40)
        assert consumer_of(app).lost.total == {topic: 40}
    assert handled.offsets == list(range(60, 100))


async def test_a_loss_before_the_first_record_is_counted(topics: MakeTopics) -> None:
    """A partition's start is committed when it is first assigned."""
    settings = await topics(partitions=1)
    async with running(settings, Handled()):
        await until_committed(settings, 0)
    await produce(settings, 80)
    await delete_records(settings, settings.topic_requests, 30)
    handled = Handled()
    async with running(settings, handled) as app:
        await handled.until(lambda: len(handled.offsets) == 50)
        assert consumer_of(app).lost.total == {settings.topic_requests: 30}


async def test_a_loss_is_counted_when_no_record_is_left(topics: MakeTopics) -> None:
    """The new position is committed, so the next owner of the partition does not count it again."""
    settings = await topics(partitions=1)
    topic = settings.topic_requests
    await twenty_are_read(settings)
    await produce(settings, 30)
    await delete_records(settings, topic, 50)
    async with running(settings, Handled()) as app:
        await until_committed(settings, 50)
        assert consumer_of(app).lost.total == {topic: 30}
    await produce(settings, 10)
    handled = Handled()
    async with running(settings, handled) as app:
        await handled.until(lambda: len(handled.offsets) == 10)
        assert consumer_of(app).lost.total == {}


async def test_an_aborted_transaction_is_no_lag(topics: MakeTopics) -> None:
    """Nothing comes after it; the offset behind it is committed, and it is not counted as lost."""
    settings = await topics(partitions=1)
    handled = Handled()
    async with (
        running(settings, handled) as app,
        aiokafka.AIOKafkaProducer(
            bootstrap_servers=settings.kafka_bootstrap, transactional_id=settings.group_id
        ) as producer,
    ):
        await producer.begin_transaction()
        for _ in range(3):
            await producer.send_and_wait(settings.topic_requests, b"{}", partition=0)
        await producer.abort_transaction()
        await until_committed(settings, 4)
        assert handled.slices == []
        assert consumer_of(app).lost.total == {}

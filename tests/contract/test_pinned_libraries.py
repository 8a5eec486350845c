"""The private names of libraries that the code uses.

Those of faust-streaming and aiokafka are used by `streams/kafka/`, those of httpx and httpcore by
`workers/network/connections.py`, those of redis-py by `workers/cache/bounded_replies.py`. When a test fails after an upgrade, check that code against the new release
before changing the pin.
"""

import inspect
from importlib.metadata import version
from typing import Any

import aiokafka
import aiokafka.admin.client
import aiokafka.client
import httpcore
import httpx
import redis.asyncio.connection
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher, FetchResult
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance, GroupCoordinator
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.structs import TopicPartition
from faust.transport.conductor import ConductorCompiler
from faust.transport.consumer import Consumer
from faust.transport.consumer import Fetcher as FaustFetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from httpcore._async.connection import AsyncHTTPConnection

from streams.kafka.aiokafka_consumer import TopicGoneError
from streams.kafka.offset_tracker import Partition
from workers.network import connections


def source(thing: object) -> str:
    return inspect.getsource(thing)  # type: ignore[arg-type]  # anything with a source


def test_versions_are_the_pinned_ones() -> None:
    """What is installed is what was read and measured."""
    assert version("faust-streaming") == "0.15.3"
    assert version("aiokafka") == "0.14.0"


def test_partitions_compare_across_libraries() -> None:
    """Our, Faust's and aiokafka's topic-partitions are equal and hash alike: they share dicts."""
    held: dict[Any, str] = {Partition("t", 1): "ours"}
    assert held[TP("t", 1)] == held[TopicPartition("t", 1)] == "ours"


def test_redis_replies_come_through_what_is_overridden() -> None:
    """The parser of a connection reads by `read_from_socket`, from `_stream`, into `_reader`."""
    parser: Any = redis.asyncio.connection.DefaultParser
    assert "await self.read_from_socket()" in source(parser.read_response)
    reading = source(parser.read_from_socket)
    assert "await self._stream.read(self._read_size)" in reading
    assert "self._reader.feed(buffer)" in reading


def test_faust_fetches_through_what_is_overridden() -> None:
    """Records come through `_getmany`, the scheduler and `_to_message`, and go to the callback."""
    assert "self._getmany(" in source(Consumer._wait_next_records)
    getmany = source(Consumer.getmany)
    assert "self.scheduler.iterate(records)" in getmany
    assert "to_message(tp, record)" in getmany
    assert "consumer._drain_messages(self)" in source(FaustFetcher._fetcher.fun)


def test_faust_commits_through_what_is_overridden() -> None:
    """Offsets come from `_filter_tps_with_pending_acks` and `_new_offset`, and go to `_commit_offsets`."""
    assert "self._filter_tps_with_pending_acks(topics)" in source(Consumer.force_commit)
    committable = source(Consumer._filter_committable_offsets)
    assert "self._new_offset(tp)" in committable
    assert "self._should_commit(tp, offset)" in committable
    assert "self._commit_offsets(" in source(Consumer._commit_tps)


def test_aiokafka_commits_through_what_is_wrapped() -> None:
    """`_do_commit_offsets` makes one attempt; its errors that are not retriable leave `commit_offsets`."""
    commit = source(GroupCoordinator.commit_offsets)
    assert "self._do_commit_offsets(assignment, offsets)" in commit
    assert "if not err.retriable" in commit
    assert not TopicGoneError.retriable


def test_aiokafka_fetches_through_what_is_wrapped() -> None:
    """The fetcher makes a FetchRequest of topic names, sends it by the client, and reads a response with names."""
    assert "req = FetchRequest(" in source(Fetcher._get_actions_per_node)
    fetch = source(Fetcher._proc_fetch_request)
    assert "await self._client.send(node_id, request)" in fetch
    assert "for topic, partitions in response.topics" in fetch
    assert "response.API_VERSION >= 11" in fetch
    # An error of an id is made one of a name, which the fetcher answers by asking for metadata.
    assert "Errors.UnknownTopicOrPartitionError" in fetch


def test_aiokafka_rejoins_on_request() -> None:
    """`request_rejoin` makes the coordination routine join the group again."""
    assert "self._rejoin_needed_fut.set_result(None)" in source(GroupCoordinator.request_rejoin)
    assert "self._rejoin_needed_fut.done()" in source(GroupCoordinator.need_rejoin)


def test_aiokafka_joins_through_what_is_wrapped() -> None:
    """The answers to JoinGroup come through `_send_req`; the first one has the member id, and then it asks again."""
    join = source(CoordinatorGroupRebalance.perform_group_join)
    assert "request = JoinGroupRequest(" in join
    assert "response = await self._coordinator._send_req(request)" in join
    assert join.index("MemberIdRequired") < join.index("try_join = True", join.index("MemberIdRequired"))


def test_aiokafka_leaves_the_group_of_a_generation_only() -> None:
    """A consumer that stops while it joins for the first time stays a member."""
    assert "self.generation > 0" in source(GroupCoordinator._maybe_leave_group)


def test_faust_acknowledges_through_what_is_overridden() -> None:
    """The last reference of a message acknowledges it by `Consumer.ack`, which keeps `_unacked_messages`."""
    assert "consumer.ack(self)" in source(ConsumerMessage.on_final_ack)
    assert "self._unacked_messages" in source(Consumer.wait_empty)
    assert "notify(self._waiting_for_ack)" in source(Consumer.ack)


def test_faust_tells_of_rebalances_as_the_stock_listener_does() -> None:
    """The listener's order: the app first, then the consumer, with the generation set before."""
    revoked = source(driver.ConsumerRebalanceListener.on_partitions_revoked)
    assert revoked.index("app.on_rebalance_start()") < revoked.index("thread.on_partitions_revoked")
    assigned = source(driver.ConsumerRebalanceListener.on_partitions_assigned)
    assert "_coordinator.generation" in assigned
    assert assigned.index("consumer_generation_id = generation") < assigned.index(
        "await self._thread.on_partitions_assigned"
    )


def test_the_raw_codec_passes_any_object() -> None:
    """A slice is a message's value and comes out of the raw codec as it went in."""
    from faust.serializers.codecs import get_codec

    marker = object()
    assert get_codec("raw").loads(marker) is marker  # type: ignore[arg-type]  # that is the point


def test_the_producer_takes_extra_settings_last() -> None:
    """`_settings_extra` overrides the defaults, and `_settings_auth` can replace Faust's."""
    made = source(driver.Producer._new_producer)
    assert (
        made.index("_settings_default()") < made.index("_settings_auth()") < made.index("_settings_extra()")
    )


def test_the_fetcher_keeps_what_it_fetched_where_we_look() -> None:
    """`_records` maps partitions to FetchResult, whose `_partition_records` may be None."""
    assert "self._records[tp] = FetchResult(" in source(Fetcher._proc_fetch_request)
    assert "records = MemoryRecords(part_data[-1])" in source(Fetcher._proc_fetch_request)
    assert "res_or_error.getall(max_records)" in source(Fetcher.fetched_records)
    assert "self._partition_records = None" in source(FetchResult.getall)
    assert "waiter = self._create_fetch_waiter()" in source(Fetcher.fetched_records)
    assert list(inspect.signature(Fetcher.fetched_records).parameters) == [
        "self",
        "partitions",
        "timeout",
        "max_records",
    ]


def test_a_batch_that_is_full_says_so() -> None:
    """`append` answers None when a batch is full, and takes its first record whatever its size."""
    batch = BatchBuilder(1000, 0)
    assert batch.append(timestamp=None, key=None, value=b"x" * 5000) is not None
    assert batch.append(timestamp=None, key=None, value=b"x") is None
    nothing = BatchBuilder(1000, 0)
    assert nothing.append(timestamp=None, key=None, value=None) is not None


def test_the_conductor_bounds_by_its_queue() -> None:
    """A queue that is not full takes a message without waiting: the offset tracker's bound is the only one."""
    assert "queue.put_nowait_enhanced(" in source(ConductorCompiler.build)


async def test_aiokafka_has_the_names_that_lag_reads() -> None:
    """`lag` reads the subscription's states: position, highwater."""
    from aiokafka.consumer.subscription_state import TopicPartitionState

    state = TopicPartitionState(assignment=None)
    assert state.highwater is None
    assert not state.has_valid_position
    assert hasattr(aiokafka.AIOKafkaConsumer, "seek_to_committed")


def test_a_consumer_stops_in_the_order_that_stopping_repeats() -> None:
    """`stop_consumer` finishes what `stop` leaves when a fetch is cancelled: the fetches, then the client."""
    stop = source(aiokafka.AIOKafkaConsumer.stop)
    assert stop.index("await self._fetcher.close()") < stop.index("await self._client.close()")
    close = source(Fetcher.close)
    assert "for x in self._pending_tasks" in close
    assert close.index("x.cancel()") < close.index("await x")


def test_httpx_uses_the_replaced_pool() -> None:
    """`_pool` of its transport is private: check workers/network/connections.py against a release that fails here."""
    assert version("httpx").startswith("0.28.")
    assert version("httpcore").startswith("1.0.")
    sending = inspect.getsource(httpx.AsyncHTTPTransport.handle_async_request)
    assert "await self._pool.handle_async_request(req)" in sending
    assert "await self._pool.aclose()" in inspect.getsource(httpx.AsyncHTTPTransport.aclose)
    connecting = inspect.getsource(AsyncHTTPConnection._connect)
    assert "await self._network_backend.connect_tcp(" in connecting
    # By this event workers/backends/model_server.py distinguishes new from reused connections.
    assert 'Trace("connect_tcp", logger, request, kwargs)' in connecting
    assert list(inspect.signature(httpcore.AnyIOBackend.connect_tcp).parameters) == list(
        inspect.signature(connections._CheckedNetwork.connect_tcp).parameters
    )


def test_aiokafka_asks_for_metadata_through_what_is_replaced() -> None:
    """Each question about topics is made by the name in the module; ours lets the broker create none."""
    assert "MetadataRequest(list(topics)" in source(AIOKafkaClient._metadata_update)
    assert "MetadataRequest([])" in source(AIOKafkaClient.bootstrap)
    assert "MetadataRequest(topics)" in source(AIOKafkaAdminClient._get_cluster_metadata)
    asked = aiokafka.client.MetadataRequest(["t"]).build(MetadataRequest_v5)
    assert asked.to_object() == {"topics": ["t"], "allow_auto_topic_creation": False}
    assert aiokafka.admin.client.MetadataRequest is aiokafka.client.MetadataRequest


def test_aiokafka_updates_metadata_through_what_is_watched() -> None:
    """The client's own loop calls the method of the instance; False means that no broker was reached."""
    assert "await self._metadata_update(self.cluster, topics)" in source(AIOKafkaClient._md_synchronizer)
    update = source(AIOKafkaClient._metadata_update)
    assert update.count("return False") == 2
    assert "self._sync_task = None" in source(AIOKafkaClient.close)


def test_faust_makes_its_producer_by_what_is_overridden() -> None:
    """The producer is made by `_new_producer`."""
    assert "self._new_producer()" in source(driver.Producer.on_start)

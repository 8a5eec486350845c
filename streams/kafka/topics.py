"""The topics of the contract: their configuration, and their creation in Kafka."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from schemas.errors import BrokerUnavailableError, SetupError
from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.kafka.errors import kafka_connection_errors, kafka_errors

# Multiples of `max_record_bytes`. A request that is too large must reach a worker, which rejects it, and its record
# must fit into a dead letter together with the headers.
_REQUEST_ROOM = 2
_DEAD_LETTER_ROOM = 4
_MESSAGE_BYTES = "max.message.bytes"
_DEFAULT_MESSAGE_BYTES = 1_048_588
_PROPAGATION_SECONDS = 15.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic to create; `config` has the topic settings by their names in Kafka."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


def plan_topics(settings: Settings, partitions: int) -> list[TopicPlan]:
    """PURE. All topics of the contract: `partitions` for those with traffic, one for those that need a total order."""
    request_bytes = {_MESSAGE_BYTES: str(_REQUEST_ROOM * settings.max_record_bytes)}
    dead_letter_bytes = {_MESSAGE_BYTES: str(_DEAD_LETTER_ROOM * settings.max_record_bytes)}
    return [
        TopicPlan(settings.topic_requests, partitions, request_bytes),
        TopicPlan(settings.topic_responses, partitions, dead_letter_bytes),
        TopicPlan(settings.topic_dead_letters, partitions, dead_letter_bytes),
        TopicPlan(settings.topic_outcomes, partitions),
        TopicPlan(settings.topic_metrics, partitions),
        TopicPlan(settings.topic_alerts, 1),
        TopicPlan(settings.topic_promotions, 1),
        TopicPlan(settings.topic_promotion_results, 1),
    ]


async def create_topics(settings: Settings, partitions: int) -> dict[str, int]:
    """Create the missing topics, with the cluster's default replication; existing topics stay unchanged.

    Returns the partition count of each topic. Raises BrokerUnavailableError, and SetupError when Kafka refuses a
    topic or when requests and responses differ in their partition counts.
    """
    plans = plan_topics(settings, partitions)
    async with administration(settings) as admin:
        await _create(admin, plans)
        counts = await _wait_for_partitions(admin, [plan.name for plan in plans])
    check_partition_counts(settings, counts)
    return counts


async def partition_counts(settings: Settings, topics: list[str]) -> dict[str, int]:
    """The partition count of each topic; raises SetupError when one is missing, BrokerUnavailableError."""
    async with administration(settings) as admin:
        described = await admin.describe_topics(topics)
    for topic in described:
        with kafka_errors(settings.kafka_bootstrap, topic["topic"]):
            if topic["error_code"] != 0:
                raise for_code(topic["error_code"])
    return {topic["topic"]: len(topic["partitions"]) for topic in described}


async def message_limits(settings: Settings, topics: list[str]) -> dict[str, int]:
    """The largest batch that each topic accepts, in bytes (`max.message.bytes`).

    Kafka's default where reading the configuration is not authorized. Raises BrokerUnavailableError.
    """
    limits = dict.fromkeys(topics, _DEFAULT_MESSAGE_BYTES)
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, topic, configs={_MESSAGE_BYTES: None}) for topic in topics
    ]
    async with administration(settings) as admin:
        for response in await admin.describe_configs(resources):
            for code, _, _, topic, entries in response.resources:
                if code == 0:
                    limits[topic] = int(next(entry[1] for entry in entries if entry[0] == _MESSAGE_BYTES))
    return limits


def check_partition_counts(settings: Settings, counts: Mapping[str, int]) -> None:
    """PURE. Raises SetupError when responses cannot go to the partition number of their requests."""
    requests, responses = counts[settings.topic_requests], counts[settings.topic_responses]
    if requests != responses:
        raise SetupError(
            f"{settings.topic_requests} has {requests} partitions and {settings.topic_responses} has "
            f"{responses}; they need the same number: add partitions to the smaller one"
        )


@asynccontextmanager
async def administration(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A connected admin client; its errors inside the block become BrokerUnavailableError."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap, **kafka_security(settings))
    try:
        with kafka_connection_errors(settings.kafka_bootstrap, settings.topic_requests):
            await admin.start()
        yield admin
    except (KafkaError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise BrokerUnavailableError(f"Kafka at {settings.kafka_bootstrap}: {reason}") from error
    finally:
        await admin.close()


async def _create(admin: AIOKafkaAdminClient, plans: Iterable[TopicPlan]) -> None:
    response = await admin.create_topics(
        [
            # With an empty assignment the client leaves the replication to the cluster.
            NewTopic(plan.name, plan.partitions, -1, replica_assignments={}, topic_configs=dict(plan.config))
            for plan in plans
        ]
    )
    for name, code, message in response.topic_errors:
        if code != 0 and for_code(code) is not TopicAlreadyExistsError:
            raise SetupError(f"Kafka refuses the topic {name}: {message or for_code(code).__name__}")


async def _wait_for_partitions(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, int]:
    """Wait until the broker has the metadata of all new topics; returns the partition count of each."""
    async with asyncio.timeout(_PROPAGATION_SECONDS):
        while True:
            topics = await admin.describe_topics(names)
            if all(topic["error_code"] == 0 for topic in topics):
                return {topic["topic"]: len(topic["partitions"]) for topic in topics}
            await asyncio.sleep(_POLL_SECONDS)

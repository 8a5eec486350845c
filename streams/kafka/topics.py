"""The topics of the contract: their configuration, their creation in Kafka, and more partitions for them."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidPartitionsError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from schemas.errors import BrokerUnavailableError, SetupError
from schemas.wording import number_of
from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.kafka.errors import kafka_connection_errors, kafka_errors

# Multiples of `max_record_bytes`. A request that is too large must reach a worker, which rejects it, and its record
# must fit into a dead letter together with the headers.
_REQUEST_ROOM = 2
_DEAD_LETTER_ROOM = 4
_MESSAGE_BYTES = "max.message.bytes"
DEFAULT_MESSAGE_BYTES = 1_048_588
DEFAULT_PARTITIONS = 4
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


def partitions_wanted(settings: Settings, counts: Mapping[str, int], asked: int | None) -> int:
    """PURE. How many partitions the topics with traffic are to have, when Kafka has the topics of `counts`.

    Not fewer than the requests have: Kafka cannot lower a number.
    """
    requests = counts.get(settings.topic_requests)
    return max(asked, requests or 0) if asked is not None else requests or DEFAULT_PARTITIONS


def plan_growth(settings: Settings, counts: Mapping[str, int], partitions: int) -> list[TopicPlan]:
    """PURE. The existing topics that get more partitions, in the order in which they get them.

    Requests are last: then a worker that reads a new partition finds where its responses go.
    """
    growing = [
        plan
        for plan in plan_topics(settings, partitions)
        if plan.partitions > 1 and counts.get(plan.name, plan.partitions) < plan.partitions
    ]
    return sorted(growing, key=lambda plan: plan.name == settings.topic_requests)


@dataclass(frozen=True, slots=True)
class PreparedTopics:
    """The partition counts of all topics, and what they were of those that existed before."""

    counts: Mapping[str, int]
    before: Mapping[str, int]


async def create_topics(settings: Settings, partitions: int | None = None) -> PreparedTopics:
    """Create the missing topics, with the cluster's default replication.

    With `partitions`, existing topics with traffic that have fewer get as many. Without it existing topics stay
    unchanged, and new ones get as many as the requests have, or DEFAULT_PARTITIONS.

    Raises BrokerUnavailableError, and SetupError when Kafka refuses a topic or when there are fewer responses than
    requests.
    """
    async with administration(settings) as admin:
        names = [plan.name for plan in plan_topics(settings, 1)]
        before = _counts(await admin.describe_topics(names))
        wanted = partitions_wanted(settings, before, partitions)
        missing = [plan for plan in plan_topics(settings, wanted) if plan.name not in before]
        if missing:
            await _create(admin, missing)
        if partitions is not None:
            for plan in plan_growth(settings, before, wanted):
                await _grow(admin, plan)
        counts = await _wait_for_partitions(admin, dict.fromkeys(names, 1))
    if advice := partitions_advice(settings, counts):
        raise SetupError(advice)
    return PreparedTopics(counts, before)


def report_lines(settings: Settings, prepared: PreparedTopics, asked: int | None) -> list[str]:
    """PURE. What happened to topics that existed before, where that is not what was asked for."""
    lines = []
    for plan in plan_topics(settings, asked or 1):
        before, now = prepared.before.get(plan.name), prepared.counts[plan.name]
        if before is not None and before < now:
            lines.append(f"{plan.name} had {before} partitions and has {now} now")
        elif asked is not None and plan.partitions < now and plan.partitions == asked:
            lines.append(f"{plan.name} keeps its {now} partitions, which Kafka cannot lower")
    return lines


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
    limits = dict.fromkeys(topics, DEFAULT_MESSAGE_BYTES)
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, topic, configs={_MESSAGE_BYTES: None}) for topic in topics
    ]
    async with administration(settings) as admin:
        for response in await admin.describe_configs(resources):
            for code, _, _, topic, entries in response.resources:
                if code == 0:
                    limits[topic] = int(next(entry[1] for entry in entries if entry[0] == _MESSAGE_BYTES))
    return limits


def partitions_advice(settings: Settings, counts: Mapping[str, int]) -> str | None:
    """PURE. What to do when some responses cannot go to the partition number of their request; None otherwise."""
    requests, responses = counts[settings.topic_requests], counts[settings.topic_responses]
    if requests <= responses:
        return None
    return (
        f"{settings.topic_requests} has {number_of(requests, 'partition')} and {settings.topic_responses} has {responses}; "
        f"responses need at least as many: run `headrace init --partitions {requests}`"
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


async def _grow(admin: AIOKafkaAdminClient, plan: TopicPlan) -> None:
    try:
        await admin.create_partitions({plan.name: NewPartitions(plan.partitions)})
    except InvalidPartitionsError:
        # Another `headrace init` was faster.
        pass
    except TopicAuthorizationFailedError as error:
        raise SetupError(f"Kafka does not authorize us to add partitions to {plan.name}") from error
    await _wait_for_partitions(admin, {plan.name: plan.partitions})


def _counts(described: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    return {topic["topic"]: len(topic["partitions"]) for topic in described if topic["error_code"] == 0}


async def _wait_for_partitions(admin: AIOKafkaAdminClient, wanted: Mapping[str, int]) -> dict[str, int]:
    """Wait until the broker has the metadata of so many partitions of each topic; returns their counts."""
    async with asyncio.timeout(_PROPAGATION_SECONDS):
        while True:
            counts = _counts(await admin.describe_topics(list(wanted)))
            if all(counts.get(name, 0) >= partitions for name, partitions in wanted.items()):
                return counts
            await asyncio.sleep(_POLL_SECONDS)

"""Questions about topics that create none.

aiokafka lets the broker create a topic that it is asked about, where the broker's settings permit it
(`auto.create.topics.enable`). Such a topic has the broker's number of partitions and limits instead of those of
`headrace init`, and a topic with a misspelt name seems to exist. Brokers before Kafka 0.11 cannot be asked otherwise.
"""

import aiokafka.admin.client
import aiokafka.client
from aiokafka.protocol.metadata import MetadataRequest


class _CreatesNothing(MetadataRequest):  # type: ignore[misc]  # aiokafka is untyped
    def __init__(self, topics: list[str] | None = None) -> None:
        super().__init__(topics, allow_auto_topic_creation=False)


aiokafka.client.MetadataRequest = aiokafka.admin.client.MetadataRequest = _CreatesNothing

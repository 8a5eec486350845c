"""Which record keys belong to the partitions that this process reads.

All records of a key are in one partition, so exactly one member of the consumer group owns each key.
"""

from aiokafka.partitioner import DefaultPartitioner
from faust.types import TP

from streams.kafka.faust_app import WorkerApp, consumer_of

_PARTITIONER = DefaultPartitioner()


class PartitionAssignment:
    """The share of `topic` that an app reads."""

    def __init__(self, app: WorkerApp, topic: str) -> None:
        self._app = app
        self._topic = topic
        # Until the topic is known. While the metadata lacks it later, keys stay where they are.
        self._count = 1

    @property
    def settled(self) -> bool:
        """False during a rebalance, and without an assigned partition."""
        return not self._app.rebalancing and bool(consumer_of(self._app).assignment())

    @property
    def generation(self) -> int:
        """The consumer group's generation, which changes with each rebalance."""
        return self._app.consumer_generation_id

    def partition_of(self, key: str) -> int:
        """The partition that producers write records with this key to."""
        # Asked each time: the topic may get more.
        self._count = consumer_of(self._app).topic_partitions(self._topic) or self._count
        numbers = list(range(self._count))
        number: int = _PARTITIONER(key.encode(), numbers, numbers)
        return number

    def owns(self, key: str) -> bool:
        """True when the key's partition is assigned to this app."""
        return TP(self._topic, self.partition_of(key)) in consumer_of(self._app).assignment()

    def is_read(self, key: str) -> bool:
        """True when every known record of the key's partition is processed; False before the first fetch."""
        consumer = consumer_of(self._app)
        tp = TP(self._topic, self.partition_of(key))
        return consumer.offsets.is_idle and consumer.is_caught_up(tp)

"""Which models this monitor watches: those whose deltas are in the partitions that it reads.

All deltas of a model are in one partition, by its name, so that of several monitors each model has one.
"""

from aiokafka.partitioner import DefaultPartitioner
from faust.types import TP

from streams.kafka.faust_app import WorkerApp, consumer_of

_PARTITIONER = DefaultPartitioner()


class Assignment:
    """What an app reads of the topic of deltas, which has so many partitions."""

    def __init__(self, app: WorkerApp, topic: str, partitions: int) -> None:
        self._app = app
        self._topic = topic
        self._numbers = list(range(partitions))

    @property
    def settled(self) -> bool:
        """False while partitions change hands."""
        return not self._app.rebalancing and bool(consumer_of(self._app).assignment())

    @property
    def generation(self) -> int:
        """Another number after each rebalance."""
        return self._app.consumer_generation_id

    def partition_of(self, model_name: str) -> int:
        """The partition of a model's deltas: workers write them with its name as the key."""
        number: int = _PARTITIONER(model_name.encode(), self._numbers, self._numbers)
        return number

    def owns(self, model_name: str) -> bool:
        """Whether it is for this monitor to watch a model, or with the name "" the installation."""
        return TP(self._topic, self.partition_of(model_name)) in consumer_of(self._app).assignment()

    def is_read(self, model_name: str) -> bool:
        """Whether all deltas of a model are counted, as far as is known; False right after a start."""
        consumer = consumer_of(self._app)
        tp = TP(self._topic, self.partition_of(model_name))
        return consumer.offsets.outstanding == 0 and consumer.is_caught_up(tp)

"""The models that this monitor owns: those whose deltas are in its assigned partitions.

The key of a delta is its model's name. So all deltas of a model are in one partition, and each model has one
monitor.
"""

from aiokafka.partitioner import DefaultPartitioner
from faust.types import TP

from streams.kafka.faust_app import WorkerApp, consumer_of

_PARTITIONER = DefaultPartitioner()


class Assignment:
    """The assigned partitions of an app; the topic of deltas has `partitions` partitions."""

    def __init__(self, app: WorkerApp, topic: str, partitions: int) -> None:
        self._app = app
        self._topic = topic
        self._numbers = list(range(partitions))

    @property
    def settled(self) -> bool:
        """False during a rebalance."""
        return not self._app.rebalancing and bool(consumer_of(self._app).assignment())

    @property
    def generation(self) -> int:
        """A number that changes with each rebalance."""
        return self._app.consumer_generation_id

    def partition_of(self, model_name: str) -> int:
        """The partition of a model's deltas: workers write them with its name as the key."""
        number: int = _PARTITIONER(model_name.encode(), self._numbers, self._numbers)
        return number

    def owns(self, model_name: str) -> bool:
        """True when this monitor owns the model. The owner of `GLOBAL` evaluates the global rules."""
        return TP(self._topic, self.partition_of(model_name)) in consumer_of(self._app).assignment()

    def is_read(self, model_name: str) -> bool:
        """Whether all deltas of a model are counted, as far as is known; False right after a start."""
        consumer = consumer_of(self._app)
        tp = TP(self._topic, self.partition_of(model_name))
        return consumer.offsets.outstanding == 0 and consumer.is_caught_up(tp)

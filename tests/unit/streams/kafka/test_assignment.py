"""streams/kafka/assignment.py: the partition of a key, while the number of partitions changes."""

from types import SimpleNamespace
from typing import cast
from unittest.mock import create_autospec

from streams.kafka.assignment import PartitionAssignment
from streams.kafka.faust_app import WorkerApp
from streams.kafka.transport import SliceConsumer


def test_keys_stay_where_they_are_while_the_topic_is_unknown() -> None:
    """Otherwise another process would own every key for a moment."""
    counts: list[int | None] = [8, None, 16]
    consumer = create_autospec(SliceConsumer, instance=True)
    consumer.topic_partitions.side_effect = lambda _: counts[0]
    app = cast("WorkerApp", SimpleNamespace(consumer=consumer))
    assignment = PartitionAssignment(app, "metrics")
    keys = [f"m{number}" for number in range(100)]
    of_eight = [assignment.partition_of(key) for key in keys]
    assert set(of_eight) == set(range(8))
    counts.pop(0)
    assert [assignment.partition_of(key) for key in keys] == of_eight
    counts.pop(0)
    assert set(map(assignment.partition_of, keys)) > set(range(8))

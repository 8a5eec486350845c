"""streams/kafka/errors.py: aiokafka's exceptions become those of `schemas.errors`."""

import logging

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from schemas.errors import BrokerUnavailableError, HeadraceError, InvalidRequestError, SetupError
from streams.kafka.errors import kafka_connection_errors, kafka_errors


@pytest.mark.parametrize(
    ("raised", "translated", "message"),
    [
        (UnknownTopicOrPartitionError(), SetupError, "Kafka at broker:9092 has no topic t"),
        (TopicAuthorizationFailedError(), SetupError, "does not authorize us for t"),
        (MessageSizeTooLargeError("9 bytes"), InvalidRequestError, "t does not accept a record of this size"),
        (TimeoutError(), BrokerUnavailableError, "Kafka at broker:9092 does not answer"),
        (KafkaConnectionError(), BrokerUnavailableError, "Kafka at broker:9092 cannot be reached"),
        (NotLeaderForPartitionError(), BrokerUnavailableError, "NotLeaderForPartitionError"),
        (OSError("no buffer space"), BrokerUnavailableError, "no buffer space"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error_says_what_to_do(raised: Exception, translated: type[HeadraceError], message: str) -> None:
    """The type is the reaction; the message names the broker or the topic."""
    with pytest.raises(translated, match=message) as error, kafka_errors("broker:9092", "t"):
        raise raised
    assert error.value.__cause__ is raised


def test_other_errors_pass() -> None:
    """A fault of the caller's is not Kafka's."""
    with pytest.raises(ZeroDivisionError), kafka_errors("broker:9092", "t"):
        raise ZeroDivisionError


def test_a_failed_connection_says_why() -> None:
    """The reason is only in a log line of aiokafka; the handler that reads it does not outlive the block."""
    logger = logging.getLogger("aiokafka")
    before = list(logger.handlers)

    def connect() -> None:
        with kafka_connection_errors("broker:9092", "t"):
            logger.error("authentication failed for %s", "u")
            raise KafkaConnectionError

    with pytest.raises(BrokerUnavailableError, match="cannot be reached: authentication failed for u"):
        connect()
    assert logger.handlers == before

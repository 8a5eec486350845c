"""Translates aiokafka's exceptions into those of `schemas.errors`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from schemas.errors import BrokerUnavailableError, InvalidRequestError, SetupError


@contextmanager
def kafka_errors(bootstrap: str, topic: str) -> Iterator[None]:
    """Translate the errors of calls that concern `topic`; a TimeoutError means that the broker does not answer.

    Raises SetupError (the topic is missing or not permitted), InvalidRequestError (the record is too large),
    BrokerUnavailableError (all others).
    """
    try:
        yield
    except UnknownTopicOrPartitionError as error:
        raise SetupError(
            f"Kafka at {bootstrap} has no topic {topic}; `headrace init` creates it, or HEADRACE_TOPIC_… names another"
        ) from error
    except TopicAuthorizationFailedError as error:
        raise SetupError(f"Kafka at {bootstrap} does not authorize us for {topic}") from error
    except MessageSizeTooLargeError as error:
        raise InvalidRequestError(f"{topic} does not accept a record of this size: {error}") from error
    except TimeoutError as error:
        raise BrokerUnavailableError(f"Kafka at {bootstrap} does not answer") from error
    except KafkaConnectionError as error:
        raise BrokerUnavailableError(f"Kafka at {bootstrap} cannot be reached") from error
    except (KafkaError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise BrokerUnavailableError(f"Kafka at {bootstrap}: {reason}") from error


@contextmanager
def kafka_connection_errors(bootstrap: str, topic: str) -> Iterator[None]:
    """Like `kafka_errors`, for the start of a client: the message includes why the connection failed.

    aiokafka logs the reason (refused, wrong password, unknown authority) but raises without it.
    """
    last = _LastMessage(logging.ERROR)
    logger = logging.getLogger("aiokafka")
    logger.addHandler(last)
    try:
        with kafka_errors(bootstrap, topic):
            yield
    except BrokerUnavailableError as error:
        if last.message and isinstance(error.__cause__, KafkaConnectionError):
            raise BrokerUnavailableError(f"{error}: {last.message}") from error.__cause__
        raise
    finally:
        logger.removeHandler(last)


class _LastMessage(logging.Handler):
    message = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.message = record.getMessage()

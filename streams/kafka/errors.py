"""aiokafka's exceptions, in the words of `schemas.errors`."""

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
from streams.config.settings import Settings


@contextmanager
def kafka_errors(settings: Settings, topic: str) -> Iterator[None]:
    """Around calls that concern `topic`; a TimeoutError of the block is Kafka's silence.

    Raises SetupError (no such topic, or none for us), InvalidRequestError (the broker takes no record
    so big), BrokerUnavailableError (everything else).
    """
    try:
        yield
    except UnknownTopicOrPartitionError as error:
        raise SetupError(
            f"Kafka at {settings.kafka_bootstrap} has no topic {topic}; create it, or name another by "
            "HEADRACE_TOPIC_…"
        ) from error
    except TopicAuthorizationFailedError as error:
        raise SetupError(f"Kafka at {settings.kafka_bootstrap} does not let us use {topic}") from error
    except MessageSizeTooLargeError as error:
        raise InvalidRequestError(f"{topic} takes no record so big: {error}") from error
    except TimeoutError as error:
        raise BrokerUnavailableError(f"Kafka at {settings.kafka_bootstrap} does not answer") from error
    except KafkaConnectionError as error:
        raise BrokerUnavailableError(f"Kafka at {settings.kafka_bootstrap} cannot be reached") from error
    except (KafkaError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise BrokerUnavailableError(f"Kafka at {settings.kafka_bootstrap}: {reason}") from error


@contextmanager
def kafka_connection_errors(settings: Settings, topic: str) -> Iterator[None]:
    """As `kafka_errors`, around the start of a client: it also says why there is no connection.

    aiokafka logs the reason (refused, wrong password, unknown authority) and raises without it.
    """
    heard = _LastMessage(logging.ERROR)
    logger = logging.getLogger("aiokafka")
    logger.addHandler(heard)
    try:
        with kafka_errors(settings, topic):
            yield
    except BrokerUnavailableError as error:
        if heard.message and isinstance(error.__cause__, KafkaConnectionError):
            raise BrokerUnavailableError(f"{error}: {heard.message}") from error.__cause__
        raise
    finally:
        logger.removeHandler(heard)


class _LastMessage(logging.Handler):
    message = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.message = record.getMessage()

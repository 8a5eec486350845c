"""Translates aiokafka's exceptions into the errors of whoever uses it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)


@dataclass(frozen=True, slots=True)
class KafkaErrors:
    """Each kind of failure as an error that takes one message. `create_topic` says how a topic is created."""

    setup: Callable[[str], Exception]
    too_large: Callable[[str], Exception]
    unavailable: type[Exception]
    create_topic: str

    @contextmanager
    def translated(self, bootstrap: str, topic: str) -> Iterator[None]:
        """Translate the errors of calls that concern `topic`; a TimeoutError means that the broker does not answer.

        Raises `setup` (the topic is missing or not permitted), `too_large` (the record is), `unavailable` (all others).
        """
        try:
            yield
        except UnknownTopicOrPartitionError as error:
            raise self.setup(f"Kafka at {bootstrap} has no topic {topic}; {self.create_topic}") from error
        except TopicAuthorizationFailedError as error:
            raise self.setup(f"Kafka at {bootstrap} does not authorize us for {topic}") from error
        except MessageSizeTooLargeError as error:
            raise self.too_large(f"{topic} does not accept a record of this size: {error}") from error
        except TimeoutError as error:
            raise self.unavailable(f"Kafka at {bootstrap} does not answer") from error
        except KafkaConnectionError as error:
            raise self.unavailable(f"Kafka at {bootstrap} cannot be reached") from error
        except (KafkaError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise self.unavailable(f"Kafka at {bootstrap}: {reason}") from error

    @contextmanager
    def translated_at_start(self, bootstrap: str, topic: str) -> Iterator[None]:
        """Like `translated`, for the start of a client: the message includes why the connection failed.

        aiokafka logs the reason (refused, wrong password, unknown authority) but raises without it.
        """
        last = _LastMessage(logging.ERROR)
        logger = logging.getLogger("aiokafka")
        logger.addHandler(last)
        try:
            with self.translated(bootstrap, topic):
                yield
        except self.unavailable as error:
            if last.message and isinstance(error.__cause__, KafkaConnectionError):
                raise self.unavailable(f"{error}: {last.message}") from error.__cause__
            raise
        finally:
            logger.removeHandler(last)


class _LastMessage(logging.Handler):
    message = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.message = record.getMessage()

"""Translates aiokafka's exceptions into those of `schemas.errors`."""

from schemas.errors import BrokerUnavailableError, InvalidRequestError, SetupError
from streams.headrace_client.kafka_errors import KafkaErrors

ERRORS = KafkaErrors(
    setup=SetupError,
    too_large=InvalidRequestError,
    unavailable=BrokerUnavailableError,
    create_topic="`headrace init` creates it, or HEADRACE_TOPIC_… names another",
)

kafka_errors = ERRORS.translated
"""For calls that concern one topic; raises SetupError, InvalidRequestError, BrokerUnavailableError."""

kafka_connection_errors = ERRORS.translated_at_start
"""As `kafka_errors`, for the start of a client: the message includes why the connection failed."""

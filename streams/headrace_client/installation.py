"""Which installation a client uses: the names of its topics, and how to connect."""

import ssl
from dataclasses import dataclass
from typing import Any, Literal

from .client_errors import InvalidRequestError, NotReachableError, SetupError
from .kafka_errors import KafkaErrors

ERRORS = KafkaErrors(
    setup=SetupError,
    too_large=InvalidRequestError,
    unavailable=NotReachableError,
    create_topic="`headrace init` creates it, or Topics names another",
)

SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of an installation, where they have other names than `headrace init` gives them."""

    requests: str = "predict-requests"
    responses: str = "predict-responses"
    outcomes: str = "predict-outcomes"
    promotions: str = "model-promotions"
    promotion_results: str = "model-promotion-results"


STANDARD_TOPICS = Topics()


def kafka_security(
    tls: ssl.SSLContext | None, username: str | None, password: str | None, mechanism: SaslMechanism
) -> dict[str, Any]:
    """Aiokafka's arguments for TLS and SASL; raises InvalidRequestError."""
    if (username is None) != (password is None):
        raise InvalidRequestError("SASL needs username and password")
    protocol = "PLAINTEXT" if tls is None else "SSL"
    options: dict[str, Any] = {"security_protocol": protocol}
    if tls is not None:
        options["ssl_context"] = tls
    if username is not None:
        options |= {
            "security_protocol": f"SASL_{protocol}",
            "sasl_mechanism": mechanism,
            "sasl_plain_username": username,
            "sasl_plain_password": password,
        }
    return options

"""A client for programs in Python: predictions, promotions and outcomes over Kafka.

    from headrace_client import Client

    async with Client("127.0.0.1:9092") as client:
        response = await client.predict("fraud", user_id="u1", input={"amount": 1.5})

It is a distribution of its own, `headrace-client`, for applications that have packages named `schemas` or `workers`
themselves. Headrace's own clients are built on the same modules. It imports the standard library and aiokafka, and
nothing of Headrace. Must never import: `streams.kafka`, `schemas`, `registry`, `workers`, `pydantic`.
"""

from .client import Client
from .client_errors import (
    HeadraceClientError,
    InvalidRequestError,
    NoResponseError,
    NotReachableError,
    OverloadedError,
    PromotionRejectedError,
    SetupError,
)
from .installation import Topics
from .messages import ErrorDetail, PromotionResult, Response, ResponseError

__all__ = [
    "Client",
    "ErrorDetail",
    "HeadraceClientError",
    "InvalidRequestError",
    "NoResponseError",
    "NotReachableError",
    "OverloadedError",
    "PromotionRejectedError",
    "PromotionResult",
    "Response",
    "ResponseError",
    "SetupError",
    "Topics",
]

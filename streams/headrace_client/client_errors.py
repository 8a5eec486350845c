"""The errors of the client. Each branch stands for one reaction, which is written beside it.

HeadraceClientError
├── InvalidRequestError       change the call; the message names the field
├── SetupError                create the topic, or change the address or the rights
├── NotReachableError         try again later
├── NoResponseError           try again later; the response may still come
├── OverloadedError           send the request again later, with growing pauses
└── PromotionRejectedError    nothing changed; the message says what to do
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .messages import PromotionResult, Response


class HeadraceClientError(Exception):
    """The root of all errors that this package raises deliberately."""


class InvalidRequestError(HeadraceClientError):
    """What the call was given breaks the contract, or is too large; nothing was sent."""


class SetupError(HeadraceClientError):
    """A topic does not exist or may not be used, or the connection cannot be made as configured."""


class NotReachableError(HeadraceClientError):
    """Kafka does not answer."""


class NoResponseError(HeadraceClientError):
    """Nothing came back in time. A request may still be answered, and a promotion may still be applied."""

    def __init__(self, message: str, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id


class OverloadedError(HeadraceClientError):
    """The request was answered with OVERLOADED: too many requests wait for the version."""

    def __init__(self, response: "Response") -> None:
        message = "" if response.error is None else response.error.message
        super().__init__(f"{response.request_id} was refused with OVERLOADED: {message}")
        self.response = response


class PromotionRejectedError(HeadraceClientError):
    """The promotion was refused, and nothing changed; `result.error` has the code."""

    def __init__(self, result: "PromotionResult") -> None:
        error = result.error
        super().__init__("" if error is None else f"{error.code}: {error.message}")
        self.result = result

"""PURE. What follows a call, or a refusal, for one request: its predictions, a call to production, or an error."""

from dataclasses import dataclass

from schemas.errors import (
    AnswerError,
    BackendFailedError,
    BackendUnavailableError,
    DeadlineOutOfReachError,
    InvalidOutputError,
    OverloadedError,
)
from streams.serving.requests import RequestContext
from streams.serving.route_table import ServedModel, ServedVersion

VERSION_ERRORS = (
    BackendUnavailableError,
    BackendFailedError,
    InvalidOutputError,
    OverloadedError,
    DeadlineOutOfReachError,
)
"""Errors of a version, of its server or of what waits for it, and not of the request."""

CallResult = bytes | AnswerError
"""Predictions as JSON, or the error in their place."""


@dataclass(frozen=True, slots=True)
class AskProduction:
    """The production version is to answer; `first_error` is the error of the request's own version."""

    first_error: AnswerError


def production_for(version: ServedVersion, model: ServedModel) -> ServedVersion | None:
    """The version that answers what this one fails: None without `fallback`, and for production itself."""
    if not version.falls_back or model.production is version:
        return None
    return model.production


def after_call(
    request: RequestContext,
    result: CallResult,
    *,
    first_error: AnswerError | None,
    production: ServedVersion | None,
) -> CallResult | AskProduction:
    """Decide what follows when a call has a result for a request whose deadline has not passed.

    A refusal before a call counts as its result.
    `first_error` is None when the call went to the request's own version, and the error of that version when
    the call went to production. `production` is what `production_for` returns for the request's own version.

    | call to      | result             | `production`      | what follows                  |
    |--------------|--------------------|-------------------|-------------------------------|
    | any version  | predictions        |                   | respond with the predictions  |
    | production   | any error          |                   | respond with `first_error`    |
    | own version  | no VERSION_ERRORS  |                   | respond with the error        |
    | own version  | VERSION_ERRORS     | None              | respond with the error        |
    | own version  | VERSION_ERRORS     | refuses the input | respond with the error        |
    | own version  | VERSION_ERRORS     | accepts the input | ask production, once          |
    """
    if not isinstance(result, AnswerError):
        return result
    if first_error is not None:
        return first_error
    if production is None or not isinstance(result, VERSION_ERRORS):
        return result
    return AskProduction(result) if production.input_is_valid(request.input) else result

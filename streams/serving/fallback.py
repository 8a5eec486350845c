"""PURE. What follows the end of a call for one request: its predictions, a call to production, or an error."""

from dataclasses import dataclass

from schemas.errors import AnswerError, BackendFailedError, BackendUnavailableError, InvalidOutputError
from streams.serving.requests import RequestContext
from streams.serving.route_table import ServedModel, ServedVersion

MODEL_FAULTS = BackendUnavailableError, BackendFailedError, InvalidOutputError
"""Faults of a version or of its server, and not of the request."""

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

    `first_error` is None when the call went to the request's own version, and the error of that version when
    the call went to production. `production` is what `production_for` returns for the request's own version.

    | call to      | result             | `production`      | what follows                  |
    |--------------|--------------------|-------------------|-------------------------------|
    | any version  | predictions        |                   | respond with the predictions  |
    | production   | any error          |                   | respond with `first_error`    |
    | own version  | not a model fault  |                   | respond with the error        |
    | own version  | a model fault      | None              | respond with the error        |
    | own version  | a model fault      | refuses the input | respond with the error        |
    | own version  | a model fault      | accepts the input | ask production, once          |
    """
    if not isinstance(result, AnswerError):
        return result
    if first_error is not None:
        return first_error
    if production is None or not isinstance(result, MODEL_FAULTS):
        return result
    return AskProduction(result) if production.input_is_valid(request.input) else result

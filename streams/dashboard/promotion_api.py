"""Promote and roll back from the page, by the same events as the command line."""

import uuid
from http import HTTPStatus
from typing import Annotated, Literal

import structlog
from aiohttp import web
from pydantic import Field, StringConstraints, ValidationError

from schemas.errors import HeadraceError, PromotionRejectedError
from schemas.events import ModelName, VersionName, WireModel
from schemas.validation import one_line
from streams.clients.promotion_client import Decision, PromotionClient
from streams.config.settings import Settings
from streams.dashboard.guard import bears, is_same_site
from streams.promotions.events import make_event

log = structlog.get_logger()


class PromotionCommand(WireModel):
    """What the page may ask for; `expected_revision` is what its user was looking at."""

    action: Literal["promote", "rollback"]
    model_name: ModelName
    version: VersionName | None = None
    expected_revision: Annotated[int, Field(ge=0)]
    actor: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)] = ""


async def promote(settings: Settings, token: str, request: web.Request) -> web.Response:
    """Have a command decided: 200 with the result, applied or refused, else with `error`."""
    if not is_same_site(request.host, request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")):
        return _failed(HTTPStatus.FORBIDDEN, "CROSS_SITE", "a page of another site may not promote")
    if not bears(request.headers.get("Authorization"), token):
        return _failed(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "the token is wrong")
    try:
        command = PromotionCommand.model_validate_json(await request.read())
        event = make_event({"event_id": str(uuid.uuid4()), **command.model_dump()})
    except ValidationError as error:
        return _failed(HTTPStatus.BAD_REQUEST, "INVALID_EVENT", one_line(error, root="body", max_problems=1))
    try:
        async with PromotionClient(settings) as client:
            decided = await client.decide(event)
    except PromotionRejectedError as error:
        return _failed(HTTPStatus.BAD_REQUEST, error.code, error.message)
    except HeadraceError as error:
        log.warning("promotion from the page not decided", reason=str(error))
        return _failed(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            "no result arrived in time. The change may have been applied: look before you try again",
        )
    return _decided(decided)


def _decided(decided: Decision) -> web.Response:
    result = decided.result
    log.info(
        "promotion from the page decided",
        model_name=result.model_name,
        action=result.action,
        status=result.status,
        revision=result.revision,
    )
    return web.json_response(result.model_dump(mode="json") | {"via": decided.via})


def _failed(status: HTTPStatus, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)

"""The page over HTTP: its files, the event stream, and with a token the endpoint for promotions."""

from collections.abc import Mapping
from contextlib import aclosing, suppress
from functools import partial
from http import HTTPStatus
from importlib.resources import files

from aiohttp import web

from streams.config.setting_types import listed
from streams.config.settings import Settings
from streams.dashboard.feed import Feed
from streams.dashboard.guard import is_ours
from streams.dashboard.promotion_api import promote
from streams.dashboard.registry_reader import MODELS_SHOWN
from streams.process.http import Handler, Web

# The page loads from and connects to its own origin only, and cannot be framed.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_INDEX = "index.html"
_RETRY = b"retry: 1000\n\n"
_TROUBLE = b"event: trouble\ndata: {}\n\n"


def show_page(web_server: Web, feed: Feed, settings: Settings, *, host: str) -> None:
    """Serve the page at `/` of the server on `host`. The endpoint for promotions exists only with a token."""
    names = listed(settings.dashboard_hosts)

    def guarded(handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            if not is_ours(request.host, host, names):
                raise web.HTTPForbidden(
                    text=f"the host {request.host} is not allowed; use the address that the page listens on, localhost, "
                    "or a name in HEADRACE_DASHBOARD_HOSTS\n"
                )
            return await handler(request)

        return answer

    for name, content in _page_files().items():
        path = "/" if name == _INDEX else f"/dashboard/{name}"
        web_server.get(path, guarded(partial(_file, name, content)))
    web_server.get("/dashboard/events", guarded(partial(_events, feed)))
    if settings.dashboard_token is not None:
        token = settings.dashboard_token.get_secret_value()
        web_server.post("/dashboard/promotions", guarded(partial(promote, settings, token)))


def _page_files() -> dict[str, str]:
    folder = files("streams.dashboard").joinpath("page")
    return {each.name: each.read_text(encoding="utf-8") for each in folder.iterdir()}


async def _file(name: str, content: str, _: web.Request) -> web.Response:
    suffix = name[name.rindex(".") :]
    return web.Response(text=content, content_type=_TYPES[suffix], headers=HEADERS)


async def _events(feed: Feed, request: web.Request) -> web.StreamResponse:
    """Server-sent events: `state` with the document each second; `trouble` when PostgreSQL cannot be read."""
    names = tuple(dict.fromkeys(request.query.getall("model", [])))
    if len(names) > MODELS_SHOWN:
        return web.Response(status=HTTPStatus.BAD_REQUEST, text=f"at most {MODELS_SHOWN} models at once\n")
    # A proxy must not buffer events.
    headers = {**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    # The browser closed the connection.
    with suppress(ConnectionResetError):
        await response.write(_RETRY)
        async with aclosing(feed.documents(names)) as documents:
            async for document in documents:
                await response.write(
                    _TROUBLE if document is None else b"event: state\ndata: %b\n\n" % document
                )
    return response

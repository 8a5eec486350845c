"""The HTTP server of a process, on the loopback interface by default.

Roles add their paths when they start; the server may run already.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import structlog
from aiohttp import web

from schemas.errors import SetupError

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Event streams to a browser never end by themselves and must not delay the end of the process.
SHUTDOWN_SECONDS = 0.5

# The largest body is a promotion from the live page. A larger one is answered with 413.
MAX_BODY_BYTES = 64 * 1024

NOT_READY = HTTPStatus.SERVICE_UNAVAILABLE


_ADVICE = "choose another address with HEADRACE_HTTP_HOST and HEADRACE_HTTP_PORT"


class Web:
    """Paths and their handlers; `/livez` and `/readyz` always exist."""

    def __init__(self) -> None:
        self._handlers: dict[str, dict[str, Handler]] = {}
        self._conditions: dict[str, Callable[[], bool]] = {}
        self._other_paths: Handler | None = None
        self.get("/livez", _alive)
        self.get("/readyz", self._readiness)

    def ready_when(self, name: str, holds: Callable[[], bool]) -> None:
        """Add a condition of `/readyz`, which shows it as `name`."""
        self._conditions[name] = holds

    def get(self, path: str, handler: Handler) -> None:
        """Answer GET and HEAD of exactly this path."""
        self._add("GET", path, handler)
        self._add("HEAD", path, handler)

    def post(self, path: str, handler: Handler) -> None:
        """Answer POST of exactly this path."""
        self._add("POST", path, handler)

    def other_paths(self, handler: Handler) -> None:
        """Answer every method of the paths that have no handler."""
        self._other_paths = handler

    @asynccontextmanager
    async def serving(self, host: str, port: int, *, advice: str = _ADVICE) -> AsyncIterator[int]:
        """Serve until the block ends; yields the port. With `port` 0 the system chooses a free port.

        Raises SetupError, which ends with `advice`, when the address cannot be bound.
        """
        async with self._running() as runner:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                raise SetupError(
                    f"the HTTP server cannot listen on {host}:{port} ({error.strerror or error}); {advice}"
                ) from None
            bound = int(runner.addresses[0][1])
            log.info("http served", host=host, port=bound)
            yield bound

    @asynccontextmanager
    async def serving_on(self, socket: str) -> AsyncIterator[None]:
        """Serve on a Unix socket until the block ends; replaces an existing socket.

        Raises SetupError when the socket cannot be created.
        """
        async with self._running() as runner:
            try:
                await web.UnixSite(runner, socket).start()
            except OSError as error:
                raise SetupError(
                    f"the HTTP server cannot listen on {socket} ({error.strerror or error}); choose another path with "
                    "HEADRACE_HTTP_SOCKET"
                ) from None
            log.info("http served", socket=socket)
            yield

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[web.AppRunner]:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(_harden)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            yield runner
        finally:
            await runner.cleanup()

    def _add(self, method: str, path: str, handler: Handler) -> None:
        self._handlers.setdefault(path, {})[method] = handler

    async def _readiness(self, _: web.Request) -> web.Response:
        conditions = {name: holds() for name, holds in self._conditions.items()}
        ready = bool(conditions) and all(conditions.values())
        return web.json_response(
            {"ready": ready, "conditions": conditions}, status=HTTPStatus.OK if ready else NOT_READY
        )

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        methods = self._handlers.get(request.path)
        if methods is None and self._other_paths is not None:
            return await self._other_paths(request)
        if methods is None:
            raise web.HTTPNotFound(text=f"not found; the paths are {', '.join(sorted(self._handlers))}\n")
        handler = methods.get(request.method)
        if handler is None:
            raise web.HTTPMethodNotAllowed(request.method, list(methods))
        return await handler(request)


async def _alive(_: web.Request) -> web.Response:
    """An answer proves that the event loop runs; the watchdog ends a process whose work stalls."""
    return web.json_response({"alive": True})


async def _harden(_: web.Request, response: web.StreamResponse) -> None:
    """Hide the server's version, and forbid browsers to guess content types or to cache."""
    response.headers["Server"] = "headrace"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")

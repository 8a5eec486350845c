"""Several workers on one machine: started, watched, started again, and drained together.

Each is a process of its own with a name and a Unix socket of its own; the supervisor asks it there
whether it is ready. Workers end with their supervisor, also when that is killed: their standard input
is a pipe from it. Their metrics are shown on one page.
"""

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import structlog
from aiohttp.web import Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

from schemas.backoff import backoff_seconds
from streams.config.identity import default_worker_name
from streams.config.settings import Settings
from streams.process.http import Web
from streams.prometheus.merging import merged

log = structlog.get_logger()

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
# Who ran for so long has begun well: its next failure is a first one.
STEADY_SECONDS = 60.0
ASK_EACH_SECONDS = 0.5
ASK_TIMEOUT_SECONDS = 5.0
# After `shutdown_seconds` a worker ends itself.
GRACE_SECONDS = 3.0


def failures_in_a_row(before: int, ran_seconds: float) -> int:
    """PURE. How many there are with one more, of a process that ran for so long."""
    return 1 if ran_seconds >= STEADY_SECONDS else before + 1


class Supervisor:
    """`count` workers with these arguments to `headrace worker`."""

    def __init__(self, settings: Settings, arguments: Sequence[str], count: int) -> None:
        self._settings = settings
        self._arguments = arguments
        self._count = count
        self._stop = asyncio.Event()
        self._was_ready = False
        self._exit_code = 0

    async def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; returns the exit code.

        That is 0 after an orderly end, else that of the first worker that ended otherwise. A worker that
        ends before any was ready ends all of them: it cannot start as configured.
        """
        loop = asyncio.get_running_loop()
        for end in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(end, self._stop.set)
        web = Web()
        workers: list[_Worker] = []

        async def metrics(_: Request) -> Response:
            return Response(body=merged(await _pages(workers)), headers={"Content-Type": CONTENT_TYPE})

        web.get("/metrics", metrics)
        with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
            for number in range(1, self._count + 1):
                worker = _Worker(self._settings, self._arguments, number, Path(folder))
                web.ready_when(worker.name, worker.is_ready)
                workers.append(worker)
            async with _served(web, self._settings), asyncio.TaskGroup() as running:
                for worker in workers:
                    running.create_task(self._keep(worker))
        return self._exit_code

    async def _keep(self, worker: "_Worker") -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            code = await self._run_once(worker)
            if self._stop.is_set():
                self._exit_code = self._exit_code or _exit_code(code)
                return
            if not self._was_ready:
                self._exit_code = _exit_code(code) or 1
                self._stop.set()
                return
            failures = failures_in_a_row(failures, time.monotonic() - began)
            wait_seconds = backoff_seconds(
                failures, first_seconds=FIRST_WAIT_SECONDS, longest_seconds=LONGEST_WAIT_SECONDS
            )
            log.warning("a worker ended", worker=worker.name, exit_code=code, restart_in_seconds=wait_seconds)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait_seconds)

    async def _run_once(self, worker: "_Worker") -> int:
        """Start a worker and return its exit code; ends it when all are to end."""
        async with worker.process() as process:
            ended = asyncio.create_task(process.wait())
            asking = asyncio.create_task(self._ask(worker))
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                process.terminate()
                await asyncio.wait([ended], timeout=self._settings.shutdown_seconds + GRACE_SECONDS)
            for task in (asking, stopping):
                task.cancel()
            await asyncio.gather(asking, stopping, return_exceptions=True)
            if not ended.done():
                log.critical("a worker does not end; it is killed", worker=worker.name)
                process.kill()
            return await ended

    async def _ask(self, worker: "_Worker") -> None:
        async with worker.client() as client:
            while True:
                worker.ready = await _is_ready(client)
                self._was_ready = self._was_ready or worker.ready
                await asyncio.sleep(ASK_EACH_SECONDS)


class _Worker:
    """One of the processes, through all of its starts."""

    def __init__(self, settings: Settings, arguments: Sequence[str], number: int, folder: Path) -> None:
        self.name = f"{settings.worker_name or default_worker_name()}-{number}"
        self.ready = False
        self._socket = folder / f"{number}.sock"
        self._arguments = arguments

    @asynccontextmanager
    async def process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """A started process, of which nothing is left when the block ends."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "streams.cli",
            "worker",
            *self._arguments,
            "--supervised",
            f"--set=worker_name={self.name}",
            f"--set=http_socket={self._socket}",
            stdin=asyncio.subprocess.PIPE,
            # Ctrl-C in a terminal goes to all processes of its group; the supervisor alone decides.
            process_group=0,
        )
        log.info("worker started", worker=self.name, pid=process.pid)
        try:
            yield process
        finally:
            self.ready = False
            if process.returncode is None:
                process.kill()
                await process.wait()

    def is_ready(self) -> bool:
        """Whether it said so when it was asked last."""
        return self.ready

    def client(self) -> httpx.AsyncClient:
        """Speaks with the process over its socket."""
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket)),
            base_url="http://worker",
            timeout=ASK_TIMEOUT_SECONDS,
        )


def _exit_code(returned: int) -> int:
    """As a shell has it: of a process that a signal ended, 128 and the signal."""
    return returned if returned >= 0 else 128 - returned


async def _pages(workers: Sequence[_Worker]) -> dict[str, str]:
    """What each worker shows at `/metrics`; one that does not answer shows nothing."""
    pages = await asyncio.gather(*(_page(worker) for worker in workers))
    return {worker.name: page for worker, page in zip(workers, pages, strict=True) if page}


async def _page(worker: _Worker) -> str:
    async with worker.client() as client:
        try:
            answer = await client.get("/metrics")
        except httpx.HTTPError:
            return ""
        return answer.text if answer.status_code == httpx.codes.OK else ""


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@asynccontextmanager
async def _served(web: Web, settings: Settings) -> AsyncIterator[None]:
    if settings.http_port is None:
        yield
    else:
        async with web.serving(settings.http_host, settings.http_port):
            yield

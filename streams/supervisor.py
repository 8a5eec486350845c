"""Starts several workers on one machine, restarts those that exit, and stops them together.

Each worker is a process with its own name and its own Unix socket, on which the supervisor reads its readiness and
its metrics; the supervisor serves the metrics of all workers on one page. A worker's standard input is a pipe from
the supervisor, so that workers also end when the supervisor is killed.
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
# A worker that ran this long has started well: its next failure counts as a first one.
STEADY_SECONDS = 60.0
ASK_EACH_SECONDS = 0.5
ASK_TIMEOUT_SECONDS = 5.0
# A worker ends itself after `shutdown_seconds`.
GRACE_SECONDS = 3.0


def failures_in_a_row(before: int, ran_seconds: float) -> int:
    """PURE. The number of failures in a row, after one more failure of a worker that ran for `ran_seconds`."""
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

        The code is 0 after an orderly shutdown, otherwise that of the first worker that exited with another one.
        A worker that exits before any worker was ready stops all of them: it cannot start as configured.
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
            log.warning("worker exited", worker=worker.name, exit_code=code, restart_in_seconds=wait_seconds)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait_seconds)

    async def _run_once(self, worker: "_Worker") -> int:
        """Start a worker and return its exit code; stops the worker when the supervisor stops."""
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
                log.critical("worker killed after the shutdown timeout", worker=worker.name)
                process.kill()
            return await ended

    async def _ask(self, worker: "_Worker") -> None:
        async with worker.client() as client:
            while True:
                worker.ready = await _is_ready(client)
                self._was_ready = self._was_ready or worker.ready
                await asyncio.sleep(ASK_EACH_SECONDS)


class _Worker:
    """One of the worker processes, through all its restarts."""

    def __init__(self, settings: Settings, arguments: Sequence[str], number: int, folder: Path) -> None:
        self.name = f"{settings.worker_name or default_worker_name()}-{number}"
        self.ready = False
        self._socket = folder / f"{number}.sock"
        self._arguments = arguments

    @asynccontextmanager
    async def process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start the process; it does not outlive the block."""
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
            # A terminal sends Ctrl-C to all processes of its group; only the supervisor must receive it.
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
        """The worker's last answer of `/readyz`."""
        return self.ready

    def client(self) -> httpx.AsyncClient:
        """An HTTP client on the process's socket."""
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket)),
            base_url="http://worker",
            timeout=ASK_TIMEOUT_SECONDS,
        )


def _exit_code(returned: int) -> int:
    """As in a shell: 128 + N for a process that signal N ended."""
    return returned if returned >= 0 else 128 - returned


async def _pages(workers: Sequence[_Worker]) -> dict[str, str]:
    """The `/metrics` page of each worker that answers, by worker name."""
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

"""Starts the processes of a worker on one machine, restarts those that exit, and stops them together.

Each role has a process of its own, so that neither a fault nor a kill of one role ends another one. A process has its
own Unix socket, on which the supervisor reads its readiness and its metrics. The supervisor serves the metrics of all
processes on one page, and forwards the live page from the role monitor. A process's standard input is a pipe from the
supervisor, so that the processes also end when the supervisor is killed.
"""

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog
from aiohttp.web import Request, Response, StreamResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

from schemas.backoff import backoff_seconds
from streams.config.identity import default_worker_name
from streams.config.settings import Settings
from streams.process.http import Web
from streams.process.http_forwarding import client_on, forwarded
from streams.prometheus.merging import exits_page, merged

log = structlog.get_logger()

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
# A process that ran this long has started well: its next failure counts as a first one.
STEADY_SECONDS = 60.0
ASK_EACH_SECONDS = 0.5
ASK_TIMEOUT_SECONDS = 5.0
# A process ends itself after `shutdown_seconds`.
GRACE_SECONDS = 3.0
# Roles whose partitions several processes share. Of the others one process is enough on a machine.
SHARED_ROLES = frozenset({"predict", "log"})


@dataclass(frozen=True, slots=True)
class PlannedProcess:
    """A process to start: its name beside the other ones, its role, and the name of its worker."""

    name: str
    role: str
    worker: str


def planned(worker: str, roles: Sequence[str], processes: int) -> list[PlannedProcess]:
    """PURE. A process for each role, and `processes` for each of `SHARED_ROLES`.

    Processes of one role have a number in both names.
    """
    return [
        PlannedProcess(f"{role}-{number}", role, f"{worker}-{number}")
        if processes > 1 and role in SHARED_ROLES
        else PlannedProcess(role, role, worker)
        for role in roles
        for number in range(1, processes + 1 if role in SHARED_ROLES else 2)
    ]


def failures_in_a_row(before: int, ran_seconds: float) -> int:
    """PURE. The number of failures in a row, after one more failure of a process that ran for `ran_seconds`."""
    return 1 if ran_seconds >= STEADY_SECONDS else before + 1


class Supervisor:
    """The processes of `roles`, with these further arguments to `headrace worker`."""

    def __init__(
        self, settings: Settings, roles: Sequence[str], arguments: Sequence[str], *, processes: int
    ) -> None:
        self._settings = settings
        self._planned = planned(settings.worker_name or default_worker_name(), roles, processes)
        self._arguments = arguments
        self._processes: list[_Process] = []
        self._stop = asyncio.Event()
        self._was_ready = False
        self._were_all_ready = False
        self._failed_starts: dict[str, int] = {}
        self._exit_code = 0

    async def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; returns the exit code.

        The code is 0 after an orderly shutdown, otherwise that of the first process that exited with another one.
        When every process has exited before any was ready, the supervisor ends: they cannot start as configured.
        """
        loop = asyncio.get_running_loop()
        for end in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(end, self._stop.set)
        web = Web()
        web.get("/metrics", self._metrics)
        with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
            for each in self._planned:
                process = _Process(each, self._arguments, Path(folder))
                web.ready_when(each.name, process.is_ready)
                if each.role == "monitor":
                    web.other_paths(process.forward)
                self._processes.append(process)
            async with _served(web, self._settings), asyncio.TaskGroup() as running:
                for process in self._processes:
                    running.create_task(self._keep(process))
        return self._exit_code

    async def _keep(self, process: "_Process") -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                code = await self._run_once(process)
            except OSError as error:
                # The machine has no memory or no process left now.
                log.error("process not started", process=process.name, reason=str(error))
                code = 1
            if self._stop.is_set():
                self._exit_code = self._exit_code or _exit_code(code)
                return
            process.exits += 1
            if not self._was_ready:
                self._failed_starts.setdefault(process.name, _exit_code(code) or 1)
                if len(self._failed_starts) == len(self._processes):
                    self._exit_code = next(iter(self._failed_starts.values()))
                    self._stop.set()
                    return
            failures = failures_in_a_row(failures, time.monotonic() - began)
            wait_seconds = backoff_seconds(
                failures, first_seconds=FIRST_WAIT_SECONDS, longest_seconds=LONGEST_WAIT_SECONDS
            )
            log.error("process exited", process=process.name, exit_code=code, restart_in_seconds=wait_seconds)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait_seconds)

    async def _run_once(self, process: "_Process") -> int:
        """Start a process and return its exit code; stops the process when the supervisor stops."""
        async with process.running() as started:
            ended = asyncio.create_task(started.wait())
            asking = asyncio.create_task(self._ask(process))
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                started.terminate()
                await asyncio.wait([ended], timeout=self._settings.shutdown_seconds + GRACE_SECONDS)
            for task in (asking, stopping):
                task.cancel()
            await asyncio.gather(asking, stopping, return_exceptions=True)
            if not ended.done():
                log.critical("process killed after the shutdown timeout", process=process.name)
                started.kill()
            return await ended

    async def _ask(self, process: "_Process") -> None:
        async with process.client() as client:
            while True:
                process.ready = await _is_ready(client)
                self._was_ready = self._was_ready or process.ready
                if not self._were_all_ready and all(each.ready for each in self._processes):
                    self._were_all_ready = True
                    log.info("all processes ready", processes=[each.name for each in self._processes])
                await asyncio.sleep(ASK_EACH_SECONDS)

    async def _metrics(self, _: Request) -> Response:
        return Response(body=merged(await _pages(self._processes)), headers={"Content-Type": CONTENT_TYPE})


class _Process:
    """One of the processes, through all its restarts."""

    def __init__(self, plan: PlannedProcess, arguments: Sequence[str], folder: Path) -> None:
        self.name = plan.name
        self.ready = False
        self.exits = 0
        self._plan = plan
        self._socket = str(folder / f"{plan.name}.sock")
        self._arguments = arguments

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start the process; it does not outlive the block."""
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streams.cli", "worker"),
            *self._arguments,
            *("--supervised", f"--roles={self._plan.role}"),
            *(f"--set=worker_name={self._plan.worker}", f"--set=http_socket={self._socket}"),
            stdin=asyncio.subprocess.PIPE,
            # A terminal sends Ctrl-C to all processes of its group; only the supervisor must receive it.
            process_group=0,
        )
        log.info("process started", process=self.name, pid=started.pid)
        try:
            yield started
        finally:
            self.ready = False
            if started.returncode is None:
                started.kill()
                await started.wait()

    def is_ready(self) -> bool:
        """The process's last answer of `/readyz`."""
        return self.ready

    def client(self) -> httpx.AsyncClient:
        """An HTTP client on the process's socket."""
        return client_on(self._socket, read_timeout_seconds=ASK_TIMEOUT_SECONDS)

    async def forward(self, request: Request) -> StreamResponse:
        """The process's answer to a request."""
        return await forwarded(request, self._socket)

    async def page(self) -> str:
        """The process's metrics, if it answers, and how often it has ended."""
        async with self.client() as client:
            try:
                answer = await client.get("/metrics")
            except httpx.HTTPError:
                own = ""
            else:
                own = answer.text if answer.status_code == httpx.codes.OK else ""
        return own + exits_page(self.exits)


def _exit_code(returned: int) -> int:
    """As in a shell: 128 + N for a process that signal N ended."""
    return returned if returned >= 0 else 128 - returned


async def _pages(processes: Sequence[_Process]) -> Mapping[str, str]:
    """The `/metrics` page of each process, by its name."""
    pages = await asyncio.gather(*(process.page() for process in processes))
    return {process.name: page for process, page in zip(processes, pages, strict=True)}


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

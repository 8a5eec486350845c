"""The life of a worker process, which runs one role; several roles are several processes under a supervisor.

Start: the role opens its connections and joins its consumer group. End: on SIGTERM or SIGINT the role stops
fetching, finishes and commits the slices in flight, and the process exits with 0; a timer ends the process when that
takes too long. A fault ends the process at once with exit code 1: Kafka delivers the unacknowledged records again.
"""

import asyncio
import os
import pkgutil
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import structlog

from streams.config.identity import Identity, default_worker_name
from streams.config.settings import Settings
from streams.kafka.memberships import leave_for_ended
from streams.process.http import Web
from streams.process.interpreter_timer import InterpreterTimer
from streams.prometheus.page import MetricsPage, process_metrics
from streams.roles import ROLES
from streams.roles.role_consumer import RoleContext

log = structlog.get_logger()

EXIT_FAULT = 1
EXIT_SHUTDOWN_TOO_LONG = 75
"""EX_TEMPFAIL of sysexits.h: nothing is lost, but the shutdown was not orderly."""

Role = Callable[[RoleContext], AbstractAsyncContextManager[None]]
"""Enters when the role reads its topic; exits when the role has finished what it began.

Entering raises SetupError, RegistryUnavailableError or BrokerUnavailableError.
"""


class Worker:
    """A process with one of `ROLES`; a `supervised` one also ends when its standard input closes."""

    def __init__(self, settings: Settings, role: str, *, supervised: bool = False) -> None:
        self._settings = settings
        self._role = role
        self._supervised = supervised
        self._identity = Identity(
            worker=settings.worker_name or default_worker_name(), boot_id=uuid.uuid4().hex
        )
        self._stop = asyncio.Event()
        self._fault: BaseException | None = None

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or a fault.

        Raises SetupError, RegistryUnavailableError or BrokerUnavailableError when it cannot start.
        """
        self._listen_to_signals()
        if self._supervised:
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._shut_down, "supervisor ended")
        settings, web, metrics, started = self._settings, Web(), MetricsPage(), asyncio.Event()
        context = RoleContext(settings, self._identity, web, metrics, self._stop, self._fail)
        web.ready_when("the role has started", started.is_set)
        web.get("/metrics", metrics.answer)
        metrics.add(lambda: process_metrics(self._identity.worker, self._role))
        async with AsyncExitStack() as running:
            running.enter_context(InterpreterTimer(settings.watchdog_seconds))
            if settings.http_socket is not None:
                await running.enter_async_context(web.serving_on(settings.http_socket))
            elif settings.http_port is not None:
                await running.enter_async_context(web.serving(settings.http_host, settings.http_port))
            # First, because the role may load versions for long before it joins its group.
            await leave_for_ended(settings)
            role: Role = pkgutil.resolve_name(ROLES[self._role])
            await running.enter_async_context(role(context))
            if not self._stop.is_set():
                started.set()
                log.info("worker ready", worker=self._identity.worker, role=self._role)
            await self._stop.wait()
            if self._fault is not None:
                # An orderly shutdown would wait for slices that will never be acknowledged.
                log.critical("worker stopped by a fault")
                os._exit(EXIT_FAULT)

    def _fail(self, error: BaseException) -> None:
        log.error("fault", exc_info=error)
        self._fault = self._fault or error
        self._stop.set()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._shut_down, signal.Signals(number).name)

    def _shut_down(self, reason: str) -> None:
        if self._supervised:
            # A closed standard input stays readable for ever.
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        if self._stop.is_set():
            return
        log.info("shutting down", reason=reason)
        limit = threading.Timer(self._settings.shutdown_seconds, _end_now)
        limit.daemon = True
        limit.start()
        self._stop.set()


def _end_now() -> None:
    log.critical("shutdown took too long; ending the process")
    os._exit(EXIT_SHUTDOWN_TOO_LONG)

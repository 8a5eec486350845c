"""The three servers on one data folder, which one process at a time may use."""

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psutil

from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from deploy.local.redis import Redis
from schemas.errors import SetupError

_KILLED_RUN_SECONDS = 15.0
_POLL_SECONDS = 0.05


class LocalStack:
    """Kafka, PostgreSQL and Redis with their data below `data_dir`.

    A context manager: it starts the servers on entry and stops them on exit. `report` is called with a text
    for each step. Start it in a thread that outlives it. Each of `kafka`, `postgres` and `redis` can be
    stopped, killed, paused and started again by itself, on the same address.
    """

    def __init__(self, data_dir: Path, report: Callable[[str], None] = lambda _: None) -> None:
        self.data_dir = data_dir.absolute()
        self._report = report
        self._lock_fd = -1
        self.kafka: Kafka
        self.postgres: Postgres
        self.redis: Redis

    @property
    def kafka_bootstrap(self) -> str:
        return self.kafka.bootstrap

    @property
    def postgres_dsn(self) -> str:
        return self.postgres.dsn

    @property
    def redis_url(self) -> str:
        return self.redis.url

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all servers and wait until they are ready; stops them and raises SetupError if one fails."""
        self._lock_fd = _lock(self.data_dir, self._report)
        self.kafka = Kafka(self.data_dir / "kafka", self._lock_fd, self._report)
        self.postgres = Postgres(self.data_dir / "postgres", self._lock_fd)
        self.redis = Redis(self.data_dir / "redis", self._lock_fd)
        try:
            # Kafka takes longest, so it starts first.
            for service in self._services:
                self._report(f"starting {service.name}")
                service.prepare()
                service.launch()
            for service in reversed(self._services):
                service.wait_until_ready()
                self._report(f"{service.name} started")
        except BaseException:  # also an interruption must leave no server running
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all servers, and kill those that take too long. Idempotent."""
        if self._lock_fd < 0:
            return
        for service in self._services:
            service.request_stop()
        with ExitStack() as each_even_if_one_fails:
            for service in self._services:
                each_even_if_one_fails.callback(service.wait_until_gone)
        os.close(self._lock_fd)
        self._lock_fd = -1

    def ended(self) -> list[str]:
        """The names of the servers that have ended."""
        return [service.name for service in self._services if not service.running]

    @property
    def _services(self) -> tuple[Kafka, Postgres, Redis]:
        return self.kafka, self.postgres, self.redis


def _lock(data_dir: Path, report: Callable[[str], None]) -> int:
    """Lock the folder for this process and its servers; returns the lock's file descriptor.

    The servers inherit the descriptor, so the lock is released when the last of them has ended, also after
    their parent was killed. Raises SetupError when another process uses the folder.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SetupError(f"the data folder cannot be used: {error}") from error
    try:
        _wait_for_lock(lock_fd, data_dir, report)
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, str(os.getpid()).encode(), 0)
    except BaseException:  # the caller does not get the descriptor after an exception
        os.close(lock_fd)
        raise
    return lock_fd


def _wait_for_lock(lock_fd: int, data_dir: Path, report: Callable[[str], None]) -> None:
    deadline = time.monotonic() + _KILLED_RUN_SECONDS
    reported = False
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock_fd, 20, 0).decode()
            if not holder.isdigit() or psutil.pid_exists(int(holder)):
                raise SetupError(
                    f"a stack is already running on {data_dir} (process {holder or 'starting'})"
                ) from None
            if time.monotonic() > deadline:
                raise SetupError(f"servers of a killed run still use {data_dir}; stop them first") from None
            if not reported:
                report(f"waiting until the servers of process {holder}, which was killed, have ended")
                reported = True
            time.sleep(_POLL_SECONDS)
        else:
            return

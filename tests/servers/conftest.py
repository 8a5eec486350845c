"""Each server is installed before the first test and started once for the run; a table says what ran.

They are large, so nothing here is collected unless it is asked for by its path.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from schemas.errors import SetupError
from tests.bench.venvs import LackingError
from tests.servers.kinds import KINDS
from tests.servers.launching import ModelServerProcess, install
from tests.servers.served import WAYS, Served, Way

_HERE = Path(__file__).parent
# No package index has this server: its protocol is tested on its documented answers.
_RECORDED = "test_tensorflow_serving.py"
_RECORDED_NAME = "TensorFlow Serving"
_SERVER = "server"
_OUTCOMES = {"passed": "passed", "failed": "FAILED", "error": "NOT STARTED", "skipped": "skipped"}

Process = TypeVar("Process", bound=ModelServerProcess)

Installed = Path | SetupError
_INSTALLED = pytest.StashKey[dict[type[ModelServerProcess], Installed]]()


class RunningServers:
    """What has been started in this run, and what could not be."""

    def __init__(self, folder: Path, installed: dict[type[ModelServerProcess], Installed]) -> None:
        self._folder = folder
        self._installed = installed
        self._servers: dict[type[ModelServerProcess], ModelServerProcess] = {}

    def get(self, kind: type[ModelServerProcess]) -> ModelServerProcess:
        """A running server; raises LackingError where it cannot run, SetupError where it does not."""
        binaries = self._installed[kind]
        if isinstance(binaries, SetupError):
            raise binaries
        server = self._servers.get(kind)
        if server is None:
            server = kind(self._folder / kind.requirements, binaries)
            server.prepare()
            try:
                server.start()
            except SetupError as error:
                self._installed[kind] = error
                raise
            self._servers[kind] = server
        elif not server.running:
            server.start()
        return server

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = [Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args]
    return None if any(path.resolve().is_relative_to(_HERE) for path in asked) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = next(iter(_kinds(item)), None)
        if kind is not None:
            item.user_properties.append((_SERVER, kind.name))
            # Under xdist too, each server is started once.
            item.add_marker(pytest.mark.xdist_group(kind.requirements))
        elif item.path.name == _RECORDED:
            item.user_properties.append((_SERVER, _RECORDED_NAME))


def pytest_collection_finish(session: pytest.Session) -> None:
    installed = session.config.stash.setdefault(_INSTALLED, {})
    if session.config.option.collectonly:
        return
    wanted = {kind for item in session.items for kind in _kinds(item)}
    writer = session.config.get_terminal_writer()
    for kind in KINDS:
        if kind in wanted:
            try:
                installed[kind] = install(kind, lambda step: writer.line(f"servers: {step}"))
            except SetupError as error:
                installed[kind] = error


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter[str]] = {}
    reasons: dict[str, str] = {}
    for outcome in _OUTCOMES:
        for report in terminalreporter.getreports(outcome):
            name = dict(report.user_properties).get(_SERVER)
            if name is not None:
                counts.setdefault(str(name), Counter())[outcome] += 1
                if outcome == "skipped":
                    reasons[str(name)] = report.longrepr[2].removeprefix("Skipped: ")
    if not counts:
        return
    terminalreporter.section("model servers")
    versions = {kind.name: kind.version() for kind in KINDS} | {_RECORDED_NAME: "as documented"}
    for name, version in versions.items():
        if name in counts:
            terminalreporter.line(f"{name:20}{version:16}{_what_ran(counts[name], reasons.get(name))}")


@pytest.fixture(scope="session")
def running_servers(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServers]:
    servers = RunningServers(tmp_path_factory.mktemp("servers"), pytestconfig.stash[_INSTALLED])
    try:
        yield servers
    finally:
        servers.stop()


@pytest.fixture(params=WAYS, ids=str)
async def served(request: pytest.FixtureRequest, running_servers: RunningServers) -> AsyncIterator[Served]:
    """A protocol of a server that runs; where it cannot run here, the test is skipped with the reason."""
    way: Way = request.param
    try:
        handed_out = Served(running_servers.get(way.kind), way.api)
    except LackingError as error:
        pytest.skip(str(error))
    yield handed_out
    await handed_out.close()


def running(servers: RunningServers, kind: type[Process]) -> Process:
    """A server that a file is about; where it cannot run here, its tests are skipped with the reason."""
    try:
        server = servers.get(kind)
    except LackingError as error:
        pytest.skip(str(error))
    assert isinstance(server, kind)
    return server


def _kinds(item: pytest.Item) -> Sequence[type[ModelServerProcess]]:
    """The servers that a test needs: that of its parameter `served`, or those that its file names as SERVERS."""
    if not item.path.is_relative_to(_HERE):
        # A hook of this file sees the tests of all folders.
        return []
    parameters = getattr(item, "callspec", None)
    way = parameters.params.get("served") if parameters is not None else None
    if isinstance(way, Way):
        return [way.kind]
    named: Sequence[type[ModelServerProcess]] = getattr(getattr(item, "module", None), "SERVERS", ())
    return named


def _what_ran(counts: Counter[str], reason: str | None) -> str:
    if set(counts) == {"skipped"}:
        return f"not run: {reason}"
    return ", ".join(f"{counts[outcome]} {word}" for outcome, word in _OUTCOMES.items() if counts[outcome])

"""Real Prometheus and Alertmanager with the files of deploy/prometheus, on free ports of this machine."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from deploy.local.service import HOST, Service
from tests.monitoring.binaries import ALERTMANAGER, ALERTMANAGER_FILES, PROMETHEUS, alertmanager_files

FILES = Path(__file__).parents[2] / "deploy" / "prometheus"
SCRAPE_SECONDS = 1


class Alertmanager(Service):
    """With the example's routes, whose messages go to `receiver`."""

    name = "Alertmanager"
    ready_line = b"Listening on"

    def __init__(self, directory: Path, receiver: str) -> None:
        super().__init__(directory)
        self._receiver = receiver

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def prepare(self) -> None:
        self.directory.mkdir(parents=True)
        (self.directory / ALERTMANAGER_FILES).symlink_to(alertmanager_files())
        # Who tests cannot wait for the others of a group.
        write_changed(
            FILES / "alertmanager.yml",
            self.directory / "alertmanager.yml",
            {"http://127.0.0.1:9095": self._receiver, "group_wait: 5s": "group_wait: 1s"},
        )

    def command(self, ports: Sequence[int]) -> list[str]:
        return [
            str(ALERTMANAGER.find()),
            "--config.file=alertmanager.yml",
            f"--storage.path={self.directory / 'data'}",
            f"--web.listen-address={HOST}:{ports[0]}",
            # One alone needs no cluster.
            "--cluster.listen-address=",
        ]

    async def alerts(self) -> list[dict[str, Any]]:
        """What it has, whether it tells it or not."""
        alerts: list[dict[str, Any]] = await _get(f"{self.url}/api/v2/alerts", {})
        return alerts


class Prometheus(Service):
    """Scrapes these processes each second, and tells an Alertmanager what fires."""

    name = "Prometheus"
    ready_line = b"Server is ready to receive web requests"

    def __init__(self, directory: Path, processes: Sequence[str], alertmanager: str) -> None:
        super().__init__(directory)
        self._targets = {"headrace": processes, "alertmanager": [alertmanager]}

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def prepare(self) -> None:
        targets = self.directory / "targets"
        targets.mkdir(parents=True)
        for name, addresses in self._targets.items():
            # As in the file of that name, which says who is where.
            told = (FILES / "targets" / f"{name}.yml").read_text()
            (line,) = [line for line in told.splitlines() if "127.0.0.1" in line]
            (targets / f"{name}.yml").write_text(
                told.replace(line, "\n".join(f"    - {address}" for address in addresses))
            )
        write_changed(FILES / "alerts.yml", self.directory / "alerts.yml", {"for: 1m": "for: 1s"})
        write_changed(
            FILES / "prometheus.yml",
            self.directory / "prometheus.yml",
            {"interval: 15s": f"interval: {SCRAPE_SECONDS}s"},
        )

    def command(self, ports: Sequence[int]) -> list[str]:
        return [
            str(PROMETHEUS.find()),
            "--config.file=prometheus.yml",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={HOST}:{ports[0]}",
        ]

    async def now(self, query: str) -> list[dict[str, Any]]:
        """What a query gives at this moment."""
        return await self._query("query", query=query)

    async def over_since(self, query: str, start: float) -> list[dict[str, Any]]:
        """What a query gives in each second from a Unix time until now, series by series."""
        return await self._query(
            "query_range", query=query, start=start, end=time.time(), step=SCRAPE_SECONDS
        )

    async def label_values(self, label: str, metric: str) -> list[str]:
        """As a variable of a dashboard has it."""
        values: list[str] = await self._data(f"label/{label}/values", {"match[]": metric})
        return values

    async def _query(self, kind: str, **parameters: object) -> list[dict[str, Any]]:
        answer: dict[str, list[dict[str, Any]]] = await self._data(kind, parameters)
        return answer["result"]

    async def _data(self, path: str, parameters: Mapping[str, object]) -> Any:
        return (await _get(f"{self.url}/api/v1/{path}", parameters))["data"]


def write_changed(source: Path, target: Path, changes: Mapping[str, str]) -> None:
    """Write a file that was delivered with these changes, each of which must be one."""
    text = source.read_text()
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    target.write_text(text)


async def _get(url: str, parameters: Mapping[str, object]) -> Any:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.get(url, params={name: str(value) for name, value in parameters.items()})
    assert answer.status_code == 200, f"{parameters}: {answer.text}"
    return answer.json()

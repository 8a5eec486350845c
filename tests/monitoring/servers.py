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
    """Alertmanager with the example's routes; its messages go to `receiver`."""

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
        # A test does not wait for other alerts of a group.
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
        """All alerts that it has, suppressed ones too."""
        alerts: list[dict[str, Any]] = await _get(f"{self.url}/api/v2/alerts", {})
        return alerts


class Prometheus(Service):
    """Scrapes these processes each second, and sends alerts to an Alertmanager."""

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
            # The file of that name, with other addresses.
            text = (FILES / "targets" / f"{name}.yml").read_text()
            (line,) = [line for line in text.splitlines() if "127.0.0.1" in line]
            (targets / f"{name}.yml").write_text(
                text.replace(line, "\n".join(f"    - {address}" for address in addresses))
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
        """The result of a query now."""
        return await self._query("query", query=query)

    async def over_since(self, query: str, start: float) -> list[dict[str, Any]]:
        """The result of a query for each second from a Unix time until now, series by series."""
        return await self._query(
            "query_range", query=query, start=start, end=time.time(), step=SCRAPE_SECONDS
        )

    async def label_values(self, label: str, metric: str) -> list[str]:
        """The values of a label, as a dashboard's variable lists them."""
        values: list[str] = await self._data(f"label/{label}/values", {"match[]": metric})
        return values

    async def _query(self, kind: str, **parameters: object) -> list[dict[str, Any]]:
        answer: dict[str, list[dict[str, Any]]] = await self._data(kind, parameters)
        return answer["result"]

    async def _data(self, path: str, parameters: Mapping[str, object]) -> Any:
        return (await _get(f"{self.url}/api/v1/{path}", parameters))["data"]


def write_changed(source: Path, target: Path, changes: Mapping[str, str]) -> None:
    """Write a copy of a file with these replacements; each of them must apply."""
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

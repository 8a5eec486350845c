"""What a process serves over HTTP: `/metrics`, as a reader of Prometheus's format takes it, and `/readyz`."""

from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.deadline import wait_until


class Samples:
    """The samples of a page by name and labels; Prometheus treats empty labels as absent."""

    def __init__(self, text: str) -> None:
        names = [line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(names) == len(set(names)), "a name's samples must stand together"
        self._values = {
            (sample.name, _given(sample.labels)): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """The sample with exactly these labels."""
        return self._values[name, _given(labels)]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels, and maybe others."""
        wanted = _given(labels)
        return sum(
            value for (found, having), value in self._values.items() if found == name and wanted <= having
        )

    def labels(self, name: str, label: str) -> set[str]:
        """The values that a label has in the samples of a name."""
        return {dict(having).get(label, "") for found, having in self._values if found == name}

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self._values}


def _given(labels: dict[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels.items() if value)


async def scraped(
    url: str, until: Callable[[Samples], object] = lambda _: True, what: str = "a page"
) -> Samples:
    """The page of a process at `url`, once `until` holds for it."""

    async def page() -> Samples | None:
        answer = await client.get(f"{url}/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        samples = Samples(answer.text)
        return samples if until(samples) else None

    async with httpx.AsyncClient(trust_env=False) as client:
        found = await wait_until(page, f"/metrics shows {what}")
    assert found is not None
    return found


async def readiness(port: int) -> Any:
    """The document of `/readyz` of a worker or its supervisor, ready or not."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://127.0.0.1:{port}/readyz")).json()


async def until_ready(port: int) -> None:
    """Wait until `/readyz` says ready."""

    async def ready() -> bool:
        return bool((await readiness(port))["ready"])

    await wait_until(ready, "a worker that is ready")

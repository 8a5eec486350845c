"""What a process shows at `/metrics`, as a reader of Prometheus's format takes it."""

import asyncio
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

DEADLINE_SECONDS = 30.0


class Samples:
    """The samples of a page by name and labels; an empty label is none, as to Prometheus."""

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


async def scraped(url: str, until: Callable[[Samples], object] = lambda _: True, what: str = "") -> Samples:
    """The page of a process at `url`, once it shows what is waited for."""
    samples = None
    try:
        async with asyncio.timeout(DEADLINE_SECONDS), httpx.AsyncClient(trust_env=False) as client:
            while True:
                answer = await client.get(f"{url}/metrics")
                assert answer.status_code == 200
                assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
                samples = Samples(answer.text)
                if until(samples):
                    return samples
    except TimeoutError:
        raise AssertionError(f"/metrics does not show within {DEADLINE_SECONDS:g} s: {what}") from None

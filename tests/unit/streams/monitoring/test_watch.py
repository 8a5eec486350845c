"""streams/monitoring/watch.py: a monitor that cannot evaluate the global rules says so."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from schemas.errors import SetupError
from streams.monitoring import watch as watch_module
from streams.monitoring.rules.global_rules import Sample
from streams.monitoring.watch import AlertWatch
from tests.support.deadline import deadline


class AllPartitions:
    """All partitions are assigned to this monitor."""

    settled = True

    def owns(self, _: str) -> bool:
        return True


async def test_the_first_failed_sample_of_an_outage_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without samples no global alert fires, and nothing else shows that."""
    monkeypatch.setattr(watch_module, "SAMPLE_EACH_SECONDS", 0)
    done = asyncio.Event()
    samples = 0

    async def sample() -> Sample:
        nonlocal samples
        samples += 1
        if samples > 3:
            done.set()
        raise SetupError("run headrace init")

    unused: Any = None
    assigned: Any = AllPartitions()
    watch = AlertWatch(unused, unused, unused, assigned, publish=unused, notify=unused)
    with capture_logs() as logs:
        sampling = asyncio.create_task(watch.run_sampling_loop(sample))
        async with deadline("four samples"):
            await done.wait()
        sampling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sampling
    assert [(line["log_level"], line["event"], line["reason"]) for line in logs] == [
        ("warning", "global rules not evaluated", "run headrace init")
    ]

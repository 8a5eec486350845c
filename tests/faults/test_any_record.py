"""Whatever a broker takes, on any topic that is read: it ends no process and keeps no other record.

For any records in any batch, and with a kill of the process at any of three steps: the good record behind them gets its
output, each of them is answered, gets a dead letter or is stepped over with one, the memory stays within what
docs/operations.md says, and no process ends by itself.

`make fuzz FUZZ_SECONDS=600` looks for new examples for that long, starts a new installation after each example that
fails, and prints what it has tried.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.kafka.any_batches import AnyBatch, any_batches
from tests.support.stack.services import StackAddresses
from tests.support.worker.any_record import DOCUMENTS, Installation, installation
from tests.support.worker.kept_worker import Kill, Role, Statistics
from tests.support.worker.process import worker_processes

EXAMPLES = 12
EXAMPLES_OF_A_SEED = 20
FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)


class Example:
    """Batches to the topic of a role, and when its process is killed.

    It is no dataclass, of which Hypothesis would print every byte.
    """

    def __init__(self, role: Role, batches: list[AnyBatch], kill: Kill) -> None:
        self.role, self.batches, self.kill = role, batches, kill

    def __repr__(self) -> str:
        return f"{self.role}, killed {self.kill}: {self.batches}"


@st.composite
def examples(draw: st.DrawFn) -> Example:
    role = draw(st.sampled_from(Role))
    batches = draw(st.lists(any_batches(DOCUMENTS[role]), min_size=1, max_size=3))
    return Example(role, batches, draw(st.sampled_from(Kill)))


@contextmanager
def running(stack: StackAddresses) -> Iterator[tuple[asyncio.Runner, Installation]]:
    """An installation, and the loop of its connections."""
    with asyncio.Runner() as runner, worker_processes() as start_worker:
        entered = installation(stack, start_worker)
        installed = runner.run(entered.__aenter__())
        try:
            yield runner, installed
        finally:
            runner.run(entered.__aexit__(None, None, None))


def tried(runner: asyncio.Runner, installed: Installation, count: int, number: int | None) -> None:
    """Try so many examples: the same ones each time, or those of a seed."""

    def one(example: Example) -> None:
        runner.run(installed.example(example.role, example.batches, example.kill))

    test: Any = given(examples())(one)
    if number is not None:
        test = seed(number)(test)
    # To shrink an example would wait for its failure again and again.
    settings(
        max_examples=count,
        derandomize=number is None,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )(test)()


def test_any_record(stack: StackAddresses) -> None:
    """A few examples, the same each time."""
    with running(stack) as (runner, installed):
        tried(runner, installed, EXAMPLES, None)
        assert installed.statistics.examples >= EXAMPLES


@pytest.mark.skipif(not FUZZ_SECONDS, reason="make fuzz")
@pytest.mark.timeout(FUZZ_SECONDS * 2 + 600)
def test_fuzz(stack: StackAddresses, capsys: pytest.CaptureFixture[str]) -> None:
    """Examples of random seeds for FUZZ_SECONDS; the seeds that fail are shown."""
    ends_at = time.monotonic() + FUZZ_SECONDS
    total, failures = Statistics(), []
    while time.monotonic() < ends_at:
        with running(stack) as (runner, installed):
            number = None
            try:
                while time.monotonic() < ends_at:
                    number = random.randrange(2**32)
                    tried(runner, installed, EXAMPLES_OF_A_SEED, number)
            except Exception as error:  # noqa: BLE001  # it is reported at the end
                failures.append(f"seed {number}: {type(error).__name__}: {str(error)[:2000]}")
            total.add(installed.statistics)
    with capsys.disabled():
        sys.stdout.write(f"\n{total.text()}\n{len(failures)} failures\n")
    assert not failures, "\n".join(failures)

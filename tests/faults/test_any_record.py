"""Whatever a broker takes, on any topic that is read: it ends no process and keeps no other record.

For any records in any batch, and with kills of the process at any step: the good record behind them gets its output
within 30 s; each of them is answered, rejected, counted, logged or skipped as the rule of its topic says, or stepped
over with a dead letter; everything is committed; the memory stays within what docs/operations.md says, in a control
group of that size; and no process ends by itself.

`make fuzz FUZZ_SECONDS=600` looks for new examples for that long, starts a new installation after each example that
fails, and prints what it has tried.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.kafka.any_batches import AnyBatch, AnyRecord, any_batches
from tests.support.stack.services import StackAddresses
from tests.support.worker.any_record import DOCUMENTS, FromOutside, Installation, Kill, installation
from tests.support.worker.kept_worker import Role, Statistics
from tests.support.worker.kill_points import Step
from tests.support.worker.process import worker_processes

EXAMPLES = 12
EXAMPLES_OF_A_SEED = 20
FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)

STARTING = (Step.START, Step.JOIN, Step.ASSIGNED, Step.BEGIN, Step.BEGUN)
"""Steps that a process takes only when it has been started: `BEGIN` for a first window of records."""
KILLS: tuple[Kill, ...] = (*Step, *FromOutside)


class Example:
    """Batches to the topic of a role, and when its process is killed: at most twice, which no record is abandoned for.

    It is no dataclass, of which Hypothesis would print every byte.
    """

    def __init__(self, role: Role, batches: list[AnyBatch], kills: Collection[Kill]) -> None:
        self.role, self.batches, self.kills = role, batches, kills

    def __repr__(self) -> str:
        return f"{self.role}, killed {' and '.join(self.kills) or 'never'}: {self.batches}"


@st.composite
def examples(draw: st.DrawFn) -> Example:
    role = draw(st.sampled_from(Role))
    batches = draw(st.lists(any_batches(DOCUMENTS[role]), min_size=1, max_size=3))
    kills = draw(st.lists(st.sampled_from(KILLS), max_size=2, unique=True))
    if kills and not {*kills} - {*STARTING}:
        kills = [FromOutside.SENT, kills[0]]
    return Example(role, batches, kills)


@contextmanager
def running(stack: StackAddresses, unlimited: list[str]) -> Iterator[tuple[asyncio.Runner, Installation]]:
    """An installation, and the loop of its connections; `unlimited` gets why its memory is not limited."""
    with asyncio.Runner() as runner, worker_processes() as start_worker:
        entered = installation(stack, start_worker, unlimited)
        installed = runner.run(entered.__aenter__())
        try:
            yield runner, installed
        finally:
            runner.run(entered.__aexit__(None, None, None))


def tried(runner: asyncio.Runner, installed: Installation, count: int, number: int | None) -> None:
    """Try so many examples: the same ones each time, or those of a seed."""

    def one(example: Example) -> None:
        runner.run(installed.example(example.role, example.batches, example.kills))

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


@pytest.mark.timeout(600)
def test_any_record(stack: StackAddresses) -> None:
    """A few examples, the same each time."""
    unlimited: list[str] = []
    with running(stack, unlimited) as (runner, installed):
        tried(runner, installed, EXAMPLES, None)
        assert installed.statistics.examples >= EXAMPLES
    if unlimited:
        pytest.skip(f"it holds, but memory was not limited: {unlimited[0]}")


@pytest.mark.timeout(600)
def test_a_kill_at_each_step(stack: StackAddresses) -> None:
    """Of the roles in turn, while they handle a record near a good one and one that is none."""
    with running(stack, []) as (runner, installed):
        for kill, role in zip(KILLS, cycle(Role), strict=False):
            chosen = Role.PREDICT if kill is FromOutside.CALL else role
            kills = [FromOutside.SENT, kill] if kill in STARTING else [kill]
            document = orjson.dumps(DOCUMENTS[chosen])
            records = [AnyRecord(b"u", value, [], None) for value in (document, b"{")]
            runner.run(installed.example(chosen, [AnyBatch("plain", records, bytes)], kills))
            assert any(each.endswith(kill) for each in installed.statistics.kills), (
                f"not killed {kill}: {installed.statistics.kills}"
            )


@pytest.mark.skipif(not FUZZ_SECONDS, reason="make fuzz")
@pytest.mark.timeout(FUZZ_SECONDS * 2 + 600)
def test_fuzz(stack: StackAddresses, capsys: pytest.CaptureFixture[str]) -> None:
    """Examples of random seeds for FUZZ_SECONDS; the seeds that fail are shown."""
    ends_at = time.monotonic() + FUZZ_SECONDS
    total, failures = Statistics(), []
    while time.monotonic() < ends_at:
        with running(stack, []) as (runner, installed):
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

"""`python -m tests.bench.backlog`: a backlog before slow models, worked off by Headrace and by the best fixed batch.

Models take 0.1, 1, 10 and 100 ms for an example: ONNX models in this process, which are computing, and a model server
that sleeps and executes four calls at once. Headrace has a version as a worker makes it, with eight slices of 2,000 in
flight, and begins each time knowing nothing. A fixed batch is asked of the same backend by a few callers, for each
size and number of callers; a size whose calls come near the timeout is no candidate. Needs no stack.

A backlog of 100,000 at 100 ms an example would take three hours: each backlog is as long as takes about
`BACKLOG_SECONDS` (20) at its best, and at most 100,000. Writes `build/bench/backlog.json`.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from asyncio import StreamWriter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from schemas.errors import AnswerError, BackendFailedError, BackendUnavailableError
from schemas.events import JsonObject
from schemas.models import ModelSpec
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.served_version import max_batch, served_version
from tests.support.models.backends import open_inference
from tests.support.models.onnx_files import save_doubler
from tests.support.models.served_versions import outcomes_of
from tests.support.promotions.events import spec
from tests.support.servers.http_server import METADATA, HttpRequest, answer, asked, doubled, http_server
from workers.backends.onnx import OnnxBackend
from workers.backends.port import Backend

from .answers import WrongAnswerError
from .entry import BUILD, console, entry

ONNX, SERVER = KINDS = ("onnx", "server")
EXAMPLES_MS = (0.1, 1.0, 10.0, 100.0)
BACKLOG = 100_000
TARGET = 0.8
TIMEOUT_SECONDS = 2.0
PARALLEL = 4
SLICE, SLICES = 2000, 8
SIZES = (1, 8, 64, 256, 2048)
CALLERS = {ONNX: (2,), SERVER: (4, 16)}
# Of the time of a backlog, for each size: what it reaches does not depend on the length.
FIXED_SHARE = 0.25
# A size whose calls wait and take longer than this share of the timeout is no candidate.
IN_TIME_SHARE = 0.8
_CALIBRATION_ROUNDS = 20_000


@dataclass(frozen=True, slots=True)
class Figures:
    """Examples a second for one model; `size` and `callers` are those of the best fixed batch."""

    kind: str
    example_ms: float
    backlog: int
    failed: int
    headrace: float
    fixed: float
    size: int
    callers: int

    @property
    def ratio(self) -> float:
        return self.headrace / self.fixed


def main() -> None:
    seconds = float(os.environ.get("BACKLOG_SECONDS", "20"))
    out = console()
    rows = asyncio.run(measure(KINDS, EXAMPLES_MS, seconds, out.print))
    written = {"target": TARGET, "rows": [asdict(row) | {"ratio": round(row.ratio, 3)} for row in rows]}
    (BUILD / "backlog.json").write_text(json.dumps(written, indent=1) + "\n")


async def measure(
    kinds: Sequence[str], examples_ms: Sequence[float], seconds: float, report: Callable[[str], None]
) -> list[Figures]:
    """The figures of each kind and time of an example, with backlogs of about `seconds`."""
    rows = []
    with TemporaryDirectory(prefix="backlog-") as folder:
        for kind, example_ms in itertools.product(kinds, examples_ms):
            async with _backend(kind, example_ms / 1000, Path(folder)) as backend:
                row = await _measure(backend, kind, example_ms, seconds)
            report(
                f"{kind}, {example_ms:g} ms: {row.headrace:,.1f} of {row.backlog:,} examples/s, {row.failed} failed; "
                f"fixed {row.fixed:,.1f} ({row.size} by {row.callers}): {row.ratio:.2f}"
            )
            rows.append(row)
    return rows


async def _measure(backend: Backend, kind: str, example_ms: float, seconds: float) -> Figures:
    parallel = 1 if kind == ONNX else PARALLEL
    backlog = max(1, min(BACKLOG, round(seconds * parallel * 1000 / example_ms)))
    declared = _spec(kind)
    best, size, callers = 0.0, 1, 1
    for a_size, a_callers in itertools.product(SIZES, CALLERS[kind]):
        # A server goes on with calls that took too long, and would be busy when the next size begins.
        is_in_time = a_size * a_callers / parallel * example_ms / 1000 < TIMEOUT_SECONDS * IN_TIME_SHARE
        if a_size <= max_batch(declared) and is_in_time:
            reached = await _fixed(backend, a_size, a_callers, FIXED_SHARE * seconds)
            if reached > best:
                best, size, callers = reached, a_size, a_callers
    before = await _fixed(backend, size, callers, FIXED_SHARE * seconds)
    headrace, failed = await _by_headrace(backend, declared, backlog)
    after = await _fixed(backend, size, callers, FIXED_SHARE * seconds)
    # The machine may have become busier meanwhile.
    return Figures(kind, example_ms, backlog, failed, headrace, (before + after) / 2, size, callers)


async def _fixed(backend: Backend, size: int, callers: int, seconds: float) -> float:
    """Examples a second of so many callers with batches of one size; 0 when a call takes too long."""
    inputs = _inputs(size)
    answered = 0
    began = time.perf_counter()

    async def ask_again() -> None:
        nonlocal answered
        while time.perf_counter() - began < seconds:
            await backend.infer(inputs, timeout_seconds=TIMEOUT_SECONDS)
            answered += size

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(ask_again())
    except* (BackendUnavailableError, BackendFailedError):
        answered = 0
    return answered / (time.perf_counter() - began)


async def _by_headrace(backend: Backend, declared: ModelSpec, backlog: int) -> tuple[float, int]:
    """Examples a second, and how many failed."""
    meter = MetricsRegistry("bench", "bench", datetime.now(UTC)).meter("m", declared.version)
    dispatcher = served_version("m", declared, _Kept(backend), meter).dispatcher
    slots = asyncio.Semaphore(SLICES)
    failed = 0

    async def ask(first: int) -> None:
        nonlocal failed
        async with slots:
            numbers = range(first, min(first + SLICE, backlog))
            outcomes = await outcomes_of(dispatcher, [{"x": number} for number in numbers])
        for number, outcome in zip(numbers, outcomes, strict=True):
            if isinstance(outcome, AnswerError):
                failed += 1
            elif outcome != 2 * number:
                raise WrongAnswerError(f"{number} is answered with {outcome}")

    began = time.perf_counter()
    await asyncio.gather(*map(ask, range(0, backlog, SLICE)))
    seconds = time.perf_counter() - began
    await dispatcher.close()
    return backlog / seconds, failed


class _Kept:
    """A backend that stays open when its dispatcher closes."""

    def __init__(self, backend: Backend) -> None:
        self.infer, self.warm, self.takes_one = backend.infer, backend.warm, backend.takes_one

    async def close(self) -> None:
        """The benchmark closes it."""


@asynccontextmanager
async def _backend(kind: str, example_seconds: float, folder: Path) -> AsyncIterator[Backend]:
    if kind == ONNX:
        round_seconds = await _round_seconds(folder)
        path = save_doubler(folder / "m.onnx", rounds_of_example=round(example_seconds / round_seconds))
        backend: Backend = await OnnxBackend.load(path, threads=1)
        await backend.warm()
        yield backend
        await backend.close()
        return
    slots = asyncio.Semaphore(PARALLEL)

    async def serve(request: HttpRequest, writer: StreamWriter) -> None:
        if request.method == "GET":
            writer.write(answer(METADATA))
            return
        async with slots:
            await asyncio.sleep(example_seconds * len(asked(request)))
        writer.write(answer(doubled(request)))

    async with http_server(serve) as url:
        backend = open_inference(f"{url}/v2/models/m")
        await backend.warm()
        yield backend
        await backend.close()


async def _round_seconds(folder: Path) -> float:
    """The time of one round of the model that counts."""
    path = save_doubler(folder / "calibration.onnx", rounds_of_example=_CALIBRATION_ROUNDS)
    backend = await OnnxBackend.load(path, threads=1)
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        await backend.infer(_inputs(1), timeout_seconds=60)
        taken.append(time.perf_counter() - began)
    await backend.close()
    return min(taken) / _CALIBRATION_ROUNDS


def _inputs(count: int) -> list[JsonObject]:
    return [{"x": number} for number in range(count)]


def _spec(kind: str) -> ModelSpec:
    """A version with the default limits; only those and its timeout are read."""
    framework = "onnx" if kind == ONNX else "open-inference"
    fields: JsonObject = {"framework": framework, "timeout_ms": round(1000 * TIMEOUT_SECONDS)}
    if kind == ONNX:
        fields |= {"artifact_uri": "file:///none", "artifact_sha256": "0" * 64}
    return ModelSpec.model_validate(spec("v1", **fields))


if __name__ == "__main__":
    sys.exit(entry(main))

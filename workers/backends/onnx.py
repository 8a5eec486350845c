"""ONNX Runtime in this process: a batch is one run, in a thread beside the event loop.

Each backend has one thread for its session. `run` releases the GIL while it computes, so the event loop
continues. Later batches wait in the thread's queue.

The inputs are tensors whose first dimension, the batch, has an open size, or the size 1: then a run has one example. The outputs are tensors, or the maps of
ZipMap, with a value for each example; `onnx_tensors` decides which of them are served. `load` and `warm` refuse other
models and say what to export. External data cannot be loaded: ONNX Runtime refuses paths outside the model's folder,
and `workers/artifacts/store.py` keeps one file in a folder.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import onnxruntime
import structlog

from schemas.errors import (
    BackendFailedError,
    BackendTimeoutError,
    BackendTooLargeError,
    BackendUnavailableError,
    NonFiniteResultError,
)
from schemas.events import JsonObject
from schemas.mapping import Mapping as InputMapping
from workers.backends.description import DescribedTensor, ModelDescription, chosen
from workers.backends.onnx_session import brief, open_session, session_options
from workers.backends.onnx_tensors import (
    Output,
    classes_of,
    read_inputs,
    read_outputs,
    read_values,
    shape_of,
    size_bytes,
    takes_one,
    warm_up_examples,
    with_batch,
)
from workers.backends.tensors import STRING, Tensor, TensorSpec, alike, to_predictions, to_tensors

log = structlog.get_logger()

Answer = TypeVar("Answer")

MEMORY_BYTES = 512 * 1024 * 1024
"""The default limit of a session's arena."""
# As Python objects the outputs take about ten times as much.
MAX_OUTPUT_BYTES = 16 * 1024 * 1024
# How the arena, and the allocator of the system, report that there is no memory.
_NO_MEMORY = "Available memory of", "bad_alloc", "Failed to allocate memory"
# A run with fewer examples keeps its memory for the next run.
_SHRUNK_FROM_EXAMPLES = 16
# A run that gives the arena's free memory back to the system has the next one take it again: in a backlog, a twentieth
# of the time of a record. So it is given back when no call has come for a while, by a run of zeros.
_IDLE_SECONDS = 1.0
_SHRINK = "memory.enable_memory_arena_shrinkage", "cpu:0"


class OnnxBackend:
    """One loaded ONNX model; create it by `load`."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        executor: ThreadPoolExecutor,
        mapping: InputMapping | None = None,
    ) -> None:
        self._session = session
        self._executor = executor
        # Calls that run or wait for the thread.
        self._calls = 0
        # Runs when the arena may hold much memory.
        self._idle_timer: asyncio.TimerHandle | None = None
        inputs = session.get_inputs()
        self.takes_one = takes_one(inputs)
        self._inputs = read_inputs(inputs, mapping)
        self._chosen = {} if mapping is None else mapping.outputs
        self._declared = read_outputs(session.get_outputs(), self._chosen.values(), inputs)
        self._serve(self._declared)

    @classmethod
    async def load(
        cls,
        path: Path,
        *,
        threads: int,
        mapping: InputMapping | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> Self:
        """Load the model at `path`; one run uses `threads` threads, and its tensors take up to `memory_bytes`.

        Raises ArtifactError when the file is not an ONNX model that can be served, or its tensors differ
        from the mapping.
        """
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnx")
        loop = asyncio.get_running_loop()
        options = session_options(threads)
        try:
            return cls(
                await loop.run_in_executor(executor, open_session, path, options, memory_bytes),
                executor,
                mapping,
            )
        except BaseException:
            # A load that continues after a cancellation has no caller.
            options.set_load_cancellation_flag(True)
            executor.shutdown(wait=False)
            raise

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        """See `workers/backends/port.py`. One run for each set of sizes in open dimensions."""
        self._calls += 1
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._in_thread(self._predict, inputs)
        except TimeoutError:
            raise BackendTimeoutError(f"no prediction within {timeout_seconds:g} s") from None
        finally:
            self._calls -= 1
            if len(inputs) >= _SHRUNK_FROM_EXAMPLES and self._idle_timer is None:
                self._idle_timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._when_idle)

    async def warm(self) -> None:
        """Run a batch of zeros, for which ONNX Runtime allocates its memory, and which shows the shapes of outputs."""
        examples = 1 if self.takes_one else warm_up_examples(self._served)
        named = bool(self._chosen)
        try:
            answers = await self._in_thread(self._run, self._zeros(examples))
        except BackendFailedError as error:
            # A model may refuse zeros and accept real inputs, so it is served.
            log.info("model not warmed up", reason=str(error))
            self._serve(with_batch(self._served, None, examples, named=named))
            return
        answered = dict(zip(self._outputs, answers, strict=True))
        shapes = {name: shape_of(answer) for name, answer in answered.items()}
        served = with_batch(self._served, shapes, examples, named=named)
        self._serve(
            [
                output.shown(shapes[output.name]).with_classes(classes_of(answered[output.name]))
                for output in served
            ]
        )

    async def describe(self) -> ModelDescription:
        """See `workers/backends/port.py`. The description comes from the file and the warm-up."""
        return self._described

    async def close(self) -> None:
        """End the thread after its current run; `infer` raises from now on. Idempotent."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _when_idle(self) -> None:
        """Give the free memory of the arena back, unless a call is there."""
        self._idle_timer = None
        if self._calls:
            self._idle_timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._when_idle)
            return
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(*_SHRINK)
        # Also a run that fails gives back. A closed backend has nothing left.
        with suppress(RuntimeError):
            self._executor.submit(self._run, self._zeros(1), options)

    def _zeros(self, examples: int) -> dict[str, Tensor]:
        """Inputs for a run whose outputs do not matter."""
        return {spec.name: _zeros(spec, examples) for spec in self._inputs if not spec.optional}

    def _serve(self, outputs: Sequence[Output]) -> None:
        self._served = outputs
        self._outputs = [output.name for output in outputs]
        self._has_batch = [output.has_batch for output in outputs]
        self._described = ModelDescription(
            tuple(map(DescribedTensor.of, self._inputs)),
            chosen([output.described for output in outputs], self._chosen),
            tuple(output.name for output in self._declared if output.name not in self._outputs),
        )

    async def _in_thread(
        self, function: Callable[[Any, onnxruntime.RunOptions], Answer], inputs: Any
    ) -> Answer:
        options = onnxruntime.RunOptions()
        try:
            call = asyncio.get_running_loop().run_in_executor(self._executor, function, inputs, options)
        except RuntimeError:
            raise BackendUnavailableError("the model was unloaded") from None
        try:
            return await call
        finally:
            # A run that continues after a timeout or a cancellation has no caller.
            options.terminate = True

    def _predict(self, inputs: Sequence[JsonObject], options: onnxruntime.RunOptions) -> list[Any]:
        groups = [[index] for index in range(len(inputs))] if self.takes_one else alike(self._inputs, inputs)
        if len(groups) == 1:
            return self._predict_alike(inputs, options)
        predictions: list[Any] = [None] * len(inputs)
        for group in groups:
            answers = self._predict_alike([inputs[index] for index in group], options)
            for index, answer in zip(group, answers, strict=True):
                predictions[index] = answer
        return predictions

    def _predict_alike(self, inputs: Sequence[JsonObject], options: onnxruntime.RunOptions) -> list[Any]:
        answers = self._run(to_tensors(self._inputs, inputs), options)
        output_bytes = sum(map(size_bytes, answers))
        if output_bytes > MAX_OUTPUT_BYTES:
            raise BackendTooLargeError(
                f"the outputs have {output_bytes} bytes; at most {MAX_OUTPUT_BYTES} are read"
            )
        values: dict[str, list[Any]] = {}
        errors: dict[int, NonFiniteResultError] = {}
        for name, has_batch, answered in zip(self._outputs, self._has_batch, answers, strict=True):
            values[name], found = read_values(name, answered, len(inputs), has_batch=has_batch)
            if found:
                errors |= found
        predictions = to_predictions(values, self._chosen)
        for row, error in errors.items():
            predictions[row] = error
        return predictions

    def _run(self, feeds: dict[str, Tensor], options: onnxruntime.RunOptions) -> list[Any]:
        try:
            answers: list[Any] = self._session.run(self._outputs, feeds, options)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common base class
            if any(sign in str(error) for sign in _NO_MEMORY):
                raise BackendTooLargeError(
                    "the model needs more memory than HEADRACE_ONNX_MEMORY_BYTES allows"
                ) from None
            raise BackendFailedError(f"the model failed: {brief(error)}") from None
        return answers


def _zeros(spec: TensorSpec, examples: int) -> Tensor:
    shape = [size or 1 for size in spec.shape]
    if spec.has_batch:
        shape = [examples, *shape]
    return np.full(shape, "", STRING) if spec.dtype == STRING else np.zeros(shape, spec.dtype)

"""ONNX Runtime in this process: a batch is one run, in a thread beside the event loop.

Each backend has one thread for its session. `run` releases the GIL while it computes, so the event loop
continues. Later batches wait in the thread's queue.

All inputs and outputs of a model must be tensors whose first dimension, the batch, has an open size;
`load` and `warm` refuse other models and say what to export. External data cannot be loaded: ONNX Runtime
refuses paths outside the model's folder, and `workers/artifacts/store.py` keeps one file in a folder.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import onnxruntime
import structlog

from schemas.errors import (
    ArtifactError,
    BackendFailedError,
    BackendTimeoutError,
    BackendTooLargeError,
    BackendUnavailableError,
)
from schemas.events import JsonObject
from schemas.mapping import Mapping as InputMapping
from workers.backends.description import DescribedTensor, ModelDescription, chosen
from workers.backends.onnx_session import brief, open_session, session_options
from workers.backends.tensors import (
    STRING,
    Shape,
    Tensor,
    TensorSpec,
    alike,
    declared,
    non_finite_rows,
    to_predictions,
    to_tensors,
    to_values,
)

log = structlog.get_logger()

Answer = TypeVar("Answer")

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype("float32"),
    "tensor(double)": np.dtype("float64"),
    "tensor(float16)": np.dtype("float16"),
    "tensor(bool)": np.dtype("bool"),
    "tensor(string)": STRING,
    **{f"tensor({name})": np.dtype(name) for name in ("int8", "int16", "int32", "int64")},
    **{f"tensor({name})": np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64")},
}
_WARM_UP_BATCH = 2
MEMORY_BYTES = 512 * 1024 * 1024
"""The default limit of a session's arena."""
# As Python objects the outputs take about ten times as much.
MAX_OUTPUT_BYTES = 16 * 1024 * 1024
# How the arena, and the allocator of the system, report that there is no memory.
_NO_MEMORY = "Available memory of", "bad_alloc", "Failed to allocate memory"
# A run with fewer examples keeps its memory for the next run.
_SHRUNK_FROM_EXAMPLES = 16
# Runs that give the arena's free memory back to the system take 5% longer.
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
        # Calls that run or wait for the thread, and whether the arena may hold much memory.
        self._calls = 0
        self._may_shrink = False
        own = [TensorSpec(node.name, *_tensor_type("input", node)) for node in session.get_inputs()]
        self._inputs = own if mapping is None else _mapped(own, declared(mapping))
        self._chosen = {} if mapping is None else mapping.outputs
        outputs = {node.name: _tensor_type("output", node) for node in session.get_outputs()}
        if missing := set(self._chosen.values()) - outputs.keys():
            raise ArtifactError(
                f"the mapping has outputs that the model does not have: {', '.join(sorted(missing))}"
            )
        self._outputs = list(self._chosen.values() or outputs)
        self._described = ModelDescription(
            tuple(map(DescribedTensor.of, self._inputs)),
            chosen([_described(node) for node in session.get_outputs()], self._chosen),
        )

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

    async def warm(self) -> None:
        """Run a batch of zeros, for which ONNX Runtime allocates its memory."""
        feeds = {
            spec.name: np.full([_WARM_UP_BATCH, *(size or 1 for size in spec.shape)], "", STRING)
            if spec.dtype == STRING
            else np.zeros([_WARM_UP_BATCH, *(size or 1 for size in spec.shape)], spec.dtype)
            for spec in self._inputs
        }
        try:
            outputs = await self._in_thread(self._run, feeds)
        except BackendFailedError as error:
            # A model may refuse zeros and accept real inputs, so it is served.
            log.info("model not warmed up", reason=str(error))
            return
        for name, output in zip(self._outputs, outputs, strict=True):
            if output.shape[:1] != (_WARM_UP_BATCH,):
                raise ArtifactError(_no_batch("output", name, list(output.shape)))

    async def describe(self) -> ModelDescription:
        """See `workers/backends/port.py`. The description comes from the file."""
        return self._described

    async def close(self) -> None:
        """End the thread after its current run; `infer` raises from now on. Idempotent."""
        self._executor.shutdown(wait=False, cancel_futures=True)

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
        self._may_shrink = self._may_shrink or len(inputs) >= _SHRUNK_FROM_EXAMPLES
        if self._may_shrink and self._calls == 1:
            # No run follows at once that could use the memory.
            options.add_run_config_entry(*_SHRINK)
            self._may_shrink = False
        groups = alike(self._inputs, inputs)
        if len(groups) == 1:
            return self._predict_alike(inputs, options)
        predictions: list[Any] = [None] * len(inputs)
        for group in groups:
            answers = self._predict_alike([inputs[index] for index in group], options)
            for index, answer in zip(group, answers, strict=True):
                predictions[index] = answer
        return predictions

    def _predict_alike(self, inputs: Sequence[JsonObject], options: onnxruntime.RunOptions) -> list[Any]:
        tensors = self._run(to_tensors(self._inputs, inputs), options)
        named = dict(zip(self._outputs, tensors, strict=True))
        output_bytes = sum(tensor.nbytes for tensor in tensors)
        if output_bytes > MAX_OUTPUT_BYTES:
            raise BackendTooLargeError(
                f"the outputs have {output_bytes} bytes; at most {MAX_OUTPUT_BYTES} are read"
            )
        predictions = to_predictions(
            {name: to_values(name, tensor, len(inputs)) for name, tensor in named.items()}, self._chosen
        )
        for name, tensor in named.items():
            for row, error in non_finite_rows(name, tensor).items():
                predictions[row] = error
        return predictions

    def _run(self, feeds: dict[str, Tensor], options: onnxruntime.RunOptions) -> list[Tensor]:
        try:
            tensors: list[Tensor] = self._session.run(self._outputs, feeds, options)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common base class
            if any(sign in str(error) for sign in _NO_MEMORY):
                raise BackendTooLargeError(
                    "the model needs more memory than HEADRACE_ONNX_MEMORY_BYTES allows"
                ) from None
            raise BackendFailedError(f"the model failed: {brief(error)}") from None
        return tensors


def _mapped(own: Sequence[TensorSpec], mapped: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The declared tensors; raises ArtifactError unless they are the model's inputs."""
    types = {spec.name: (spec.dtype, spec.shape) for spec in own}
    for spec in mapped:
        dtype, shape = types.pop(spec.name, (None, ()))
        fits = len(shape) == len(spec.shape) and all(
            size in (None, said) for size, said in zip(shape, spec.shape, strict=True)
        )
        if dtype != spec.dtype or not fits:
            raise ArtifactError(
                f"the mapping of {spec.key!r} matches no input of the model by name, type and shape"
            )
    if types:
        raise ArtifactError(f"the mapping has no entry for the model's input {', '.join(sorted(types))}")
    return list(mapped)


def _tensor_type(kind: str, node: onnxruntime.NodeArg) -> tuple[np.dtype[Any], Shape]:
    """Element type and shape of one example; raises ArtifactError for other types than batched tensors."""
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise ArtifactError(f"{kind} {node.name!r} is {node.type}; only plain tensors are served")
    # An output may have no declared shape; `warm` checks a real output.
    fixed = bool(node.shape) and isinstance(node.shape[0], int)
    if fixed or (kind == "input" and not node.shape):
        raise ArtifactError(_no_batch(kind, node.name, node.shape))
    return dtype, tuple(size if isinstance(size, int) else None for size in node.shape[1:])


def _described(node: onnxruntime.NodeArg) -> DescribedTensor:
    described = DescribedTensor.of(TensorSpec(node.name, *_tensor_type("output", node)))
    return described if node.shape else replace(described, shape=None)


def _no_batch(kind: str, name: str, shape: Sequence[Any]) -> str:
    return (
        f"{kind} {name!r} has shape {list(shape)}, whose first dimension is not a batch dimension of open size; "
        "export the model with a dynamic first dimension"
    )

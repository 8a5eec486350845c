"""Opens sessions of ONNX Runtime, each with a memory arena of its own.

The arena has a limit, for the tensors of a run; the weights are outside. A run that does not fit fails, and has no
effect on other sessions.
"""

import threading
from pathlib import Path

import onnxruntime

from schemas.errors import ArtifactError

_MESSAGE_CHARACTERS = 200
# An arena that grows by powers of two may have twice the memory that a run needs.
_AS_REQUESTED = 1
# Registering an arena and opening the session that takes it are one step.
_opening = threading.Lock()
_OPENING_SECONDS = 5.0
# What ONNX Runtime's errors say, in lower case, and what to do about them.
_KNOWN_FAULTS = {
    "external data": "the model keeps its weights in a second file, and a model is one file; export it with "
    "external_data=False (torch.onnx.export) or save_as_external_data=False (onnx.save, mlflow.onnx.log_model)",
    "failed to construct locale": "the model needs a locale that this machine lacks, en_US.UTF-8 unless it names another; "
    "install it, or convert with options={TfidfVectorizer: {'locale': 'C'}}, or CountVectorizer (skl2onnx)",
}


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """The options of a session whose runs use `threads` threads; by their cancellation flag `open_session` ends."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin between runs take processor time from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # It would keep a memory plan for every batch size, and all sizes occur.
    options.enable_mem_pattern = False
    # Fatal only: errors are raised, and the caller logs them.
    options.log_severity_level = 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def open_session(
    path: Path, options: onnxruntime.SessionOptions, memory_bytes: int
) -> onnxruntime.InferenceSession:
    """Open the model at `path`; blocks. Raises ArtifactError when it cannot be opened, or the opening is cancelled."""
    try:
        # A model that never opens must not keep the others waiting: they may share an arena then.
        is_alone = _opening.acquire(timeout=_OPENING_SECONDS)
        try:
            # It replaces the arena of the session before, which keeps its own.
            onnxruntime.create_and_register_allocator(
                onnxruntime.OrtMemoryInfo(
                    "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
                ),
                onnxruntime.OrtArenaCfg({"max_mem": memory_bytes, "arena_extend_strategy": _AS_REQUESTED}),
            )
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        finally:
            if is_alone:
                _opening.release()
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common base class
        for sign, reason in _KNOWN_FAULTS.items():
            if sign in str(error).lower():
                raise ArtifactError(reason) from None
        raise ArtifactError(f"{path} cannot be loaded as an ONNX model: {brief(error)}") from None


def brief(error: Exception) -> str:
    """The beginning of an error's message."""
    return str(error).strip()[:_MESSAGE_CHARACTERS]

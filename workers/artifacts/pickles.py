"""PURE detection of pickles, by name and by content: no pickle is ever loaded.

Loading a pickle runs the program inside it. ONNX Runtime does not unpickle, so it would fail on a pickle
too; the check comes first because its error says what to do.
"""

from pathlib import PurePosixPath

from schemas.errors import ArtifactError

# The suffixes of Python, joblib, cloudpickle and torch.
_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth"})
# The opcode PROTO with each protocol that has it, and the ZIP file of a torch pickle. No ONNX model begins
# with these bytes: as Protocol Buffers tags they are fields that a model does not have.
_BEGINNINGS = (*(bytes([0x80, protocol]) for protocol in range(2, 6)), b"PK\x03\x04")

WHAT_TO_DO = (
    "pickles are never loaded, since loading one runs the program inside it; export the model to ONNX, "
    "or serve it with a model server and register its endpoint"
)


def refuse_pickle_name(path: str) -> None:
    """Raises ArtifactError when the suffix of `path` is that of a pickle."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _SUFFIXES:
        raise ArtifactError(f"a {suffix} file is a pickle: {WHAT_TO_DO}")


def refuse_pickle_content(shown: str, beginning: bytes) -> None:
    """Raises ArtifactError when a file that begins with these bytes is a pickle, or a ZIP file with one."""
    if beginning.startswith(_BEGINNINGS):
        raise ArtifactError(f"{shown} is a pickle, or a ZIP file with a torch pickle: {WHAT_TO_DO}")

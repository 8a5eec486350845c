"""PURE rule that no pickle is ever loaded, whatever it is called and wherever it comes from.

To load a pickle is to run the program inside it. ONNX Runtime unpickles nothing, so a pickle would
fail there anyway; it is refused before, because that error would not say what to do.
"""

from pathlib import PurePosixPath

from schemas.errors import ArtifactError

# What Python, joblib, cloudpickle and torch write by their own names.
_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth"})
# The opcode PROTO with each protocol that has it, and the ZIP file in which torch keeps its pickle. No
# ONNX model begins so: as tags of its format these are fields that a model does not have.
_BEGINNINGS = (*(bytes([0x80, protocol]) for protocol in range(2, 6)), b"PK\x03\x04")

WHAT_TO_DO = (
    "pickles are never loaded, since loading one runs the program inside it; export the model to ONNX, "
    "or serve it with a model server and register its endpoint"
)


def refuse_pickle_name(path: str) -> None:
    """Raises ArtifactError when a file of this name is a pickle by its suffix."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _SUFFIXES:
        raise ArtifactError(f"a {suffix} file is a pickle: {WHAT_TO_DO}")


def refuse_pickle_content(shown: str, beginning: bytes) -> None:
    """Raises ArtifactError when a file that begins so is a pickle, or a ZIP file with one."""
    if beginning.startswith(_BEGINNINGS):
        raise ArtifactError(f"{shown} is a pickle, or a ZIP file as torch makes for one: {WHAT_TO_DO}")

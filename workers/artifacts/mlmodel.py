"""PURE reader of the file `MLmodel`, in which MLflow describes a model's files.

The YAML is untrusted input: only plain types are read, and nothing that it names is loaded.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import orjson
import yaml

from schemas.errors import ArtifactError
from schemas.events import JsonObject
from workers.artifacts.pickles import WHAT_TO_DO, refuse_pickle_name

MAX_MLMODEL_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MlModel:
    """The content of an MLmodel.

    `onnx_path` is relative to the model's folder. `inputs` and `outputs` are those of the signature, None when
    it does not have them; `params` are the names of its parameters.
    """

    onnx_path: str
    inputs: tuple[JsonObject, ...] | None
    outputs: tuple[JsonObject, ...] | None
    params: tuple[str, ...] = ()


def read_mlmodel(content: bytes, shown: str) -> MlModel:
    """Parse the file; raises ArtifactError when it is not an MLmodel or has no ONNX flavour."""
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ArtifactError(f"{shown} has an MLmodel that is not YAML") from None
    flavors = _object(_object(document).get("flavors"))
    if not flavors:
        raise ArtifactError(f"{shown} has an MLmodel without flavors")
    if "onnx" not in flavors:
        raise ArtifactError(
            f"{shown} has no ONNX flavour, only {', '.join(sorted(map(str, flavors)))}: {WHAT_TO_DO}"
        )
    path = _object(flavors["onnx"]).get("data")
    if not isinstance(path, str) or not _is_below(path):
        raise ArtifactError(f"{shown} has an ONNX flavour whose file is not in the model's folder")
    refuse_pickle_name(path)
    signature = _object(_object(document).get("signature"))
    params = tuple(str(each.get("name")) for each in _side(signature.get("params")) or ())
    return MlModel(path, _side(signature.get("inputs")), _side(signature.get("outputs")), params)


def _is_below(path: str) -> bool:
    parts = PurePosixPath(path)
    return bool(parts.parts) and not parts.is_absolute() and not ({"..", "\\", "\0"} & {*parts.parts, *path})


def _side(written: Any) -> tuple[JsonObject, ...] | None:
    """A signature's inputs or outputs; None unless they are a list of columns or tensors."""
    try:
        listed = orjson.loads(written) if isinstance(written, str) else written
    except orjson.JSONDecodeError:
        return None
    if not isinstance(listed, list) or not listed or not all(isinstance(each, dict) for each in listed):
        return None
    return tuple(listed)


def _object(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}

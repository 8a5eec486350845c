"""A model that was trained and converted, with what its own library predicts: files for `tests/models/test_models.py`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_case(
    folder: Path,
    name: str,
    model: bytes,
    inputs: Sequence[dict[str, Any]],
    predictions: Sequence[Any],
    *,
    outputs: dict[str, str] | None = None,
) -> None:
    """Write `NAME.onnx`, and `NAME.json` with inputs as a client sends them and the predictions of the library.

    NaN is written as null. `outputs` are those of a version's mapping.
    """
    assert len(inputs) == len(predictions)
    (folder / f"{name}.onnx").write_bytes(model)
    case = {"inputs": list(inputs), "predictions": list(predictions), "outputs": outputs}
    (folder / f"{name}.json").write_text(json.dumps(_plain(case), allow_nan=False))


def _plain(value: Any) -> Any:
    """The value in JSON's types; numbers of NumPy become those of Python."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value

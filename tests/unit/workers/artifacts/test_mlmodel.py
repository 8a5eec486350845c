"""workers/artifacts/mlmodel.py: what an MLmodel says is read, and nothing in it is run or followed."""

from pathlib import Path

import pytest
import yaml

from schemas.errors import ArtifactError
from workers.artifacts.mlmodel import read_mlmodel

WRITTEN = """\
artifact_path: mlflow-artifacts:/1/models/m-1/artifacts
flavors:
  onnx:
    code: null
    data: model.onnx
    providers:
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    loader_module: mlflow.onnx
run_id: 907c29c93daf4977945144fe92b3d139
signature:
  inputs: '[{"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape":
    [-1, 3]}}]'
  outputs: '[{"type": "double", "required": true}]'
  params: null
utc_time_created: '2026-11-25 04:21:38.023477'
"""


def of(document: object) -> bytes:
    return yaml.safe_dump(document).encode()


def test_what_mlflow_writes() -> None:
    """The file of the ONNX flavour, and both sides of the signature."""
    mlmodel = read_mlmodel(WRITTEN.encode(), "m")
    assert mlmodel.onnx_path == "model.onnx"
    assert mlmodel.inputs == (
        {"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}},
    )
    assert mlmodel.outputs == ({"type": "double", "required": True},)


@pytest.mark.parametrize(
    "signature", [None, {}, {"inputs": "[{"}, {"inputs": "[]"}, {"inputs": "[1]"}, "none"]
)
def test_no_signature_is_none(signature: object) -> None:
    """An unreadable signature is ignored too, since it is optional."""
    mlmodel = read_mlmodel(of({"flavors": {"onnx": {"data": "a/b.onnx"}}, "signature": signature}), "m")
    assert (mlmodel.onnx_path, mlmodel.inputs, mlmodel.outputs) == ("a/b.onnx", None, None)


def test_a_model_of_pickles_is_refused() -> None:
    """The message has its flavours, the reason, and the alternative."""
    with pytest.raises(ArtifactError) as refusal:
        read_mlmodel(of({"flavors": {"sklearn": {"pickled_model": "model.pkl"}, "python_function": {}}}), "m")
    assert str(refusal.value).startswith(
        "m has no ONNX flavour, only python_function, sklearn: pickles are never"
    )
    assert "export the model to ONNX" in str(refusal.value)
    assert "register its endpoint" in str(refusal.value)


@pytest.mark.parametrize(
    "path", ["../model.onnx", "/etc/passwd", "a/../../b.onnx", "", ".", None, ["model.onnx"], "a\0b", "..\\a"]
)
def test_a_file_elsewhere_is_refused(path: object) -> None:
    """An MLmodel may only name files in its own folder."""
    with pytest.raises(ArtifactError, match="not in the model's folder"):
        read_mlmodel(of({"flavors": {"onnx": {"data": path}}}), "m")


def test_a_pickle_named_as_onnx_is_refused() -> None:
    """The suffix decides, not the flavour."""
    with pytest.raises(ArtifactError, match="is a pickle"):
        read_mlmodel(of({"flavors": {"onnx": {"data": "model.pkl"}}}), "m")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"flavors: [",
        b"[" * 100_000,
        b"- just\n- a list",
        b"",
        b"flavors: none",
        b"a: &a [*a]\nflavors: {}",
        b"when: 2026-13-45",
    ],
)
def test_what_is_no_mlmodel_is_refused(content: bytes) -> None:
    """Any other content."""
    with pytest.raises(ArtifactError, match="m has an MLmodel"):
        read_mlmodel(content, "m")


def test_nothing_in_it_is_run(tmp_path: Path) -> None:
    """YAML tags that run programs are refused."""
    trace = tmp_path / "trace"
    content = f"flavors: !!python/object/apply:os.mkdir ['{trace}']"
    with pytest.raises(ArtifactError, match="not YAML"):
        read_mlmodel(content.encode(), "m")
    assert not trace.exists()

"""Models as converters export them by default: which outputs are served, and what a null becomes."""

import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
import pytest
from onnx import helper
from structlog.testing import capture_logs

from schemas.errors import ArtifactError, BackendFailedError, NonFiniteResultError
from schemas.events import ErrorCode, JsonObject, PredictResponse
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.loaded_onnx import Load, onnx_loader
from tests.support.models.onnx_files import (
    BOOL,
    FLOAT,
    INT64,
    STRING,
    constant,
    save_classifier,
    save_model,
    value,
)
from tests.support.models.served_model import apply
from tests.support.promotions.events import event
from tests.support.stack.command import headrace
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.process import StartWorker


@pytest.fixture
async def load() -> AsyncIterator[Load]:
    async with onnx_loader() as load_one:
        yield load_one


@pytest.mark.parametrize("shape", [[1], [2], None])
async def test_an_output_without_batch_is_refused(
    load: Load, tmp_path: Path, shape: Sequence[int | str | None] | None
) -> None:
    """Whatever is declared: the warm-up shows it. The message has the shape that it saw."""
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)
    backend = await load(
        save_model(tmp_path / "m.onnx", [node], [value("x", FLOAT, ["N"])], [value("y", FLOAT, shape)])
    )
    with pytest.raises(ArtifactError, match=r"output 'y' has shape \[1\] for [23] examples.*FloatTensorType"):
        await backend.warm()


async def test_a_fixed_size_that_grows_is_the_batch(load: Load, tmp_path: Path) -> None:
    """LightGBM's converter declares its label as [1], and answers one for each example."""
    backend = await load(
        save_model(
            tmp_path / "m.onnx",
            [helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0)],
            [value("x", FLOAT, ["N", 3])],
            [value("label", INT64, [1])],
        )
    )
    await backend.warm()
    assert (await backend.describe()).output_schema() == {"type": "integer"}
    examples: list[JsonObject] = [{"x": [0, 0, 1]}, {"x": [0, 1, 0]}, {"x": [1, 0, 0]}]
    assert await backend.infer(examples, timeout_seconds=DEADLINE_SECONDS) == [2, 1, 0]


def save_with_version(folder: Path, nodes: Sequence[Any] = ()) -> Path:
    """`x` FLOAT [N] → `y` = x, and `version`, which is the same two numbers for every batch."""
    return save_model(
        folder / "m.onnx",
        [
            *nodes,
            helper.make_node("Identity", ["x"], ["y"]),
            helper.make_node("Identity", ["constant"], ["version"]),
        ],
        [value("x", FLOAT, ["N"])],
        [value("version", FLOAT, [2]), value("y", FLOAT, ["N"])],
        [constant("constant", np.array([4, 2], np.float32))],
    )


async def test_an_output_of_a_fixed_size_disturbs_no_other(load: Load, tmp_path: Path) -> None:
    """It is left out, unless the mapping names it: that is refused."""
    path = save_with_version(tmp_path)
    backend = await load(path)
    await backend.warm()
    described = await backend.describe()
    assert (described.output_schema(), described.left_out) == ({"type": "number"}, ("version",))
    assert await backend.infer([{"x": 1.0}, {"x": 2.0}], timeout_seconds=DEADLINE_SECONDS) == [1.0, 2.0]
    with pytest.raises(ArtifactError, match=r"output 'version' has shape \[2\] for 3 examples"):
        await (await load(path, outputs={"mine": "version"})).warm()


async def test_an_output_of_a_fixed_size_is_left_out_without_a_warm_up(load: Load, tmp_path: Path) -> None:
    """Of a model that refuses zeros, the declaration counts."""
    refusing = helper.make_node("Gather", ["constant", "one_over"], ["unused"])
    one_over = [
        helper.make_node("Reciprocal", ["x"], ["over"]),
        helper.make_node("Cast", ["over"], ["one_over"], to=INT64),
    ]
    path = save_with_version(tmp_path, [*one_over, refusing])
    model = onnx.load(path)
    model.graph.output.append(value("unused", FLOAT, ["N"]))
    onnx.save(model, path)
    backend = await load(path)
    with capture_logs() as logs:
        await backend.warm()
    assert [log["event"] for log in logs] == ["model not warmed up"]
    assert (await backend.describe()).left_out == ("version",)
    assert await backend.infer([{"x": 1.0}], timeout_seconds=DEADLINE_SECONDS) == [{"y": 1.0, "unused": 2.0}]


@pytest.mark.parametrize("classes", [[0, 7], ["ham", "spam"]])
async def test_maps_are_objects_by_class(
    load: Load, tmp_path: Path, classes: Sequence[int] | Sequence[str]
) -> None:
    """Beside other outputs, or alone; the derived schema names the classes."""
    path = save_classifier(tmp_path / "m.onnx", classes)
    first, second = map(str, classes)
    examples: list[JsonObject] = [{"x": [0.25, 0.75]}, {"x": [1, 0]}]
    objects = [{first: 0.25, second: 0.75}, {first: 1.0, second: 0.0}]
    both = await load(path)
    await both.warm()
    assert await both.infer(examples, timeout_seconds=DEADLINE_SECONDS) == [
        {"label": 1, "probabilities": objects[0]},
        {"label": 0, "probabilities": objects[1]},
    ]
    alone = await load(path, outputs={"p": "probabilities"})
    await alone.warm()
    assert await alone.infer(examples, timeout_seconds=DEADLINE_SECONDS) == objects
    assert (await alone.describe()).output_schema() == {
        "type": "object",
        "required": [first, second],
        "properties": {first: {"type": "number"}, second: {"type": "number"}},
    }
    label = await load(path, outputs={"label": "label"})
    await label.warm()
    assert await label.infer(examples, timeout_seconds=DEADLINE_SECONDS) == [1, 0]


async def test_nan_in_a_map_fails_alone(load: Load, tmp_path: Path) -> None:
    """As in a tensor."""
    backend = await load(save_classifier(tmp_path / "m.onnx", [0, 1]), outputs={"p": "probabilities"})
    await backend.warm()
    bad, good = await backend.infer([{"x": [None, 1]}, {"x": [0, 1]}], timeout_seconds=DEADLINE_SECONDS)
    assert isinstance(bad, NonFiniteResultError)
    assert "'probabilities' has NaN or Infinity" in str(bad)
    assert good == {"0": 0.0, "1": 1.0}


async def test_the_classes_of_many_are_not_listed(load: Load, tmp_path: Path) -> None:
    """A schema of thousands of classes would be larger than the model's input."""
    backend = await load(save_classifier(tmp_path / "m.onnx", range(101)), outputs={"p": "probabilities"})
    await backend.warm()
    schema = (await backend.describe()).output_schema()
    assert schema == {"type": "object", "additionalProperties": {"type": "number"}}


async def test_only_chosen_outputs_are_judged(load: Load, tmp_path: Path) -> None:
    """A sequence of tensors is refused with what to do, and disturbs no other output."""
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    path = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("SplitToSequence", ["x"], ["parts"]), helper.make_node("Identity", ["x"], ["y"])],
        [value("x", FLOAT, ["N"])],
        [helper.make_value_info("parts", sequence), value("y", FLOAT, ["N"])],
    )
    with pytest.raises(
        ArtifactError, match=r"'parts' is seq\(tensor\(float\)\).*name other outputs in mapping.outputs"
    ):
        await load(path)
    backend = await load(path, outputs={"mine": "y"})
    await backend.warm()
    assert await backend.infer([{"x": 3.0}], timeout_seconds=DEADLINE_SECONDS) == [3.0]


async def test_null_is_a_missing_value(load: Load, tmp_path: Path) -> None:
    """In numbers with a fraction, by the derived schema and without a mapping; in no other type."""
    path = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("IsNaN", ["x"], ["missing"])],
        [value("x", FLOAT, ["N", 2]), value("id", INT64, ["N"]), value("name", STRING, ["N", 1])],
        [value("missing", BOOL, ["N", 2])],
    )
    backend = await load(path)
    await backend.warm()
    schema = (await backend.describe()).input_schema()["properties"]
    assert schema["x"]["items"] == {"type": ["number", "null"]}
    assert (schema["id"]["type"], schema["name"]["items"]) == ("integer", {"type": "string"})
    good: JsonObject = {"x": [None, 0.5], "id": 1, "name": ["a"]}
    assert await backend.infer([good], timeout_seconds=DEADLINE_SECONDS) == [[True, False]]
    for wrong, told in (({"id": None}, "^id is null"), ({"name": [None]}, r"^name\[0\] is null")):
        with pytest.raises(BackendFailedError, match=told):
            await backend.infer([good, good | wrong], timeout_seconds=DEADLINE_SECONDS)


async def test_check_says_what_predictions_are(tmp_path: Path) -> None:
    """Which output is an object, and which is left out."""
    path = save_classifier(tmp_path / "m.onnx", ["ham", "spam"])
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Shape", ["x"], ["sizes"]))
    model.graph.output.append(value("sizes", INT64, [2]))
    onnx.save(model, path)
    registration = {"model_name": "exported", "model": fields_of(path)}
    ended = await headrace("check", "-", stdin=orjson.dumps(registration))
    assert ended.code == 0, ended.stderr
    assert re.search(
        r"^output +probabilities +probabilities +FP32 +an object by class *$", ended.stdout, re.MULTILINE
    )
    assert "warning: output 'sizes' has no value for each example, and predictions lack it" in ended.stdout


def save_wide(path: Path) -> Path:
    """`x` FLOAT [N] → `y` FLOAT [N, 500000], which is two megabytes of JSON for each example."""
    return save_model(
        path,
        [
            helper.make_node("Unsqueeze", ["x", "last"], ["column"]),
            helper.make_node("Expand", ["column", "wide"], ["y"]),
        ],
        [value("x", FLOAT, ["N"])],
        [value("y", FLOAT, ["N", 500_000])],
        [constant("last", np.array([1])), constant("wide", np.array([1, 500_000]))],
    )


async def test_predictions_are_as_large_as_the_topic_takes(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """`headrace check` says what the topic must take, and topics of `headrace init` take two megabytes."""
    fields = fields_of(save_wide(tmp_path / "m.onnx")) | {"example": {"input": {"x": 1.5}}, "max_batch": 1}
    model = f"wide-{uuid.uuid4().hex[:8]}"
    checked = await headrace("check", "-", stdin=orjson.dumps({"model_name": model, "model": fields}))
    assert checked.code == 0, checked.stderr
    assert "the predictions have 2000001 bytes; the topic of responses must take that" in checked.stdout
    await apply(database, event("register", model, model=fields), event("promote", model, version="v1"))
    settings = await topics(PARTITIONS, postgres_dsn=database)
    await start_worker(settings, "predict").ready()
    async with asking(settings) as requests:
        (response,) = await requests.ask(model, [0.5])
    assert response.error is None
    assert response.predictions == [0.5] * 500_000


def fields_of(path: Path) -> JsonObject:
    return {
        "version": "v1",
        "framework": "onnx",
        "artifact_uri": path.as_uri(),
        "artifact_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "input_schema": {},
        "output_schema": {},
    }


async def test_a_default_export_is_served_with_its_derived_schemas(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Through `headrace check` and a worker: an object by class, null for what is missing, reasons for what is wrong."""
    path = save_classifier(tmp_path / "m.onnx", ["ham", "spam", "other"], labels=1)
    fields = fields_of(path)
    model = f"exported-{uuid.uuid4().hex[:8]}"
    registration = orjson.dumps({"model_name": model, "model": fields})
    checked = (await headrace("check", "-", "--json", stdin=registration)).documents[0]
    assert checked["accepted"], checked
    derived = {name: checked[name] for name in ("input_schema", "output_schema")}
    # A second version takes anything, so that the model itself refuses.
    await apply(
        database,
        event("register", model, model=fields | derived),
        event("promote", model, version="v1"),
        event("register", f"{model}-open", model=fields),
        event("promote", f"{model}-open", version="v1"),
    )
    settings = await topics(PARTITIONS, postgres_dsn=database)
    await start_worker(settings, "predict").ready()
    async with asking(settings) as requests:
        answers = await requests.ask(model, [[0.25, 0.5, 0.25], [None, 0.0, 1.0], [0.0, 1.0], ["a", 0, 0]])
        refused = await requests.ask(f"{model}-open", [[0.0, 1.0], [0.0, "1", 2.0], [0, 1e39, 2], None])
    assert answers[0].predictions == {
        "label": 1,
        "probabilities": {"ham": 0.25, "spam": 0.5, "other": 0.25},
    }
    # This model hands a missing value on, and JSON has none.
    assert _error(answers[1]) == (
        ErrorCode.BACKEND_ERROR,
        "output 'probabilities' has NaN or Infinity, which JSON cannot represent",
    )
    assert [_error(answer)[0] for answer in answers[2:]] == [ErrorCode.INVALID_INPUT] * 2
    assert [_error(answer) for answer in refused] == [
        (ErrorCode.BACKEND_ERROR, "x has 2 values, 3 are wanted"),
        (ErrorCode.BACKEND_ERROR, "x[1] is a string, and a number is wanted"),
        (ErrorCode.BACKEND_ERROR, "x[1] is 1e39, which does not fit float32"),
        (ErrorCode.BACKEND_ERROR, "x is null, and a list is wanted"),
    ]


def _error(response: PredictResponse) -> tuple[str, str]:
    assert response.error is not None
    return response.error.code, response.error.message

"""A version's mapping with each backend that supports it: requests, chosen outputs, refused inputs."""

from asyncio import StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from schemas.errors import ArtifactError, BackendBrokenError, BackendFailedError, NonFiniteResultError
from schemas.events import JsonObject
from schemas.mapping import Mapping
from schemas.models import ModelSpec
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.onnx_files import FLOAT, INT64, save_model, value
from tests.support.promotions.events import spec
from tests.support.servers.http_server import HttpRequest, answer, http_server
from workers.backends.factory import remote_backend
from workers.backends.onnx import OnnxBackend
from workers.backends.port import Backend
from workers.network.endpoints import Outbound

# The model has `input_1` INT64 [N], `input_2` FLOAT [N, size] and outputs `double`, `copy` of them.
INPUTS: JsonObject = {
    "number": {"tensor": "input_1", "datatype": "INT64"},
    "list": {"tensor": "input_2", "datatype": "FP32", "shape": [2]},
}
EXAMPLES: list[JsonObject] = [
    {"number": 1, "list": [0.5, 1.5], "more": "left alone"},
    {"number": 2, "list": [2.5, 3.5]},
]
CHOICES: list[tuple[JsonObject, list[Any]]] = [
    ({}, [{"double": 2, "copy": [0.5, 1.5]}, {"double": 4, "copy": [2.5, 3.5]}]),
    ({"mine": "copy"}, [[0.5, 1.5], [2.5, 3.5]]),
    ({"a": "copy", "b": "double"}, [{"a": [0.5, 1.5], "b": 2}, {"a": [2.5, 3.5], "b": 4}]),
]


def mapping(outputs: JsonObject | None = None, **inputs: JsonObject | None) -> JsonObject:
    """INPUTS with these changes; None removes one."""
    mapped = {key: tensor for key, tensor in (INPUTS | inputs).items() if tensor is not None}
    return {"inputs": mapped, "outputs": outputs or {}}


async def onnx(folder: Path, declared: JsonObject, size: int | str = "size") -> OnnxBackend:
    path = save_model(
        folder / "m.onnx",
        [
            helper.make_node("Add", ["input_1", "input_1"], ["double"]),
            helper.make_node("Identity", ["input_2"], ["copy"]),
        ],
        [value("input_1", INT64, ["N"]), value("input_2", FLOAT, ["N", size])],
        [value("double", INT64, ["N"]), value("copy", FLOAT, ["N", size])],
    )
    return await OnnxBackend.load(path, threads=1, mapping=Mapping.model_validate(declared))


def open_inference_answer(request: HttpRequest) -> JsonObject:
    """A response with the requested outputs, or with all."""
    document = request.json()
    tensors = {tensor["name"]: tensor for tensor in document["inputs"]}
    assert tensors.keys() == {"input_1", "input_2"}
    assert (tensors["input_1"]["datatype"], tensors["input_1"]["shape"]) == ("INT64", [2])
    assert (tensors["input_2"]["datatype"], tensors["input_2"]["shape"]) == ("FP32", [2, 2])
    numbers = tensors["input_1"]["data"]
    outputs = {
        "double": {"name": "double", "datatype": "INT64", "shape": [2], "data": [2 * n for n in numbers]},
        "copy": tensors["input_2"] | {"name": "copy"},
    }
    names = [output["name"] for output in document.get("outputs", [])] or list(outputs)
    return {"id": document["id"], "outputs": [outputs[name] for name in names]}


def row_answer(request: HttpRequest) -> JsonObject:
    rows = request.json()["instances"]
    assert all(row.keys() == {"input_1", "input_2"} for row in rows)
    return {"predictions": [{"double": 2 * row["input_1"], "copy": row["input_2"]} for row in rows]}


def column_answer(request: HttpRequest) -> JsonObject:
    columns = request.json()["inputs"]
    assert columns.keys() == {"input_1", "input_2"}
    return {"outputs": {"double": [2 * n for n in columns["input_1"]], "copy": columns["input_2"]}}


SERVERS: dict[str, tuple[JsonObject, Callable[[HttpRequest], JsonObject]]] = {
    "open-inference": ({"framework": "open-inference"}, open_inference_answer),
    "tensorflow row": ({"framework": "tensorflow"}, row_answer),
    "tensorflow column": ({"framework": "tensorflow", "server": {"form": "column"}}, column_answer),
}


@asynccontextmanager
async def loaded(kind: str, declared: JsonObject, folder: Path) -> AsyncIterator[Backend]:
    """A warm backend as a worker makes it, on a server without metadata."""
    if kind == "onnx":
        local = await onnx(folder, declared)
        await local.warm()
        yield local
        await local.close()
        return
    fields, answered = SERVERS[kind]

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(answer({}) if request.method == "GET" else answer(answered(request)))

    async with http_server(handle) as url:
        version = ModelSpec.model_validate(spec("v1", endpoint=f"{url}/m", mapping=declared, **fields))
        backend = remote_backend(version, Outbound())
        await backend.warm()
        yield backend
        await backend.close()


KINDS = ["onnx", *SERVERS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outputs", "predictions"), CHOICES)
async def test_tensors_are_named_and_outputs_chosen(
    kind: str, outputs: JsonObject, predictions: list[Any], tmp_path: Path
) -> None:
    """Inputs are sent by the model's names, predictions have the version's keys, and other keys are not sent."""
    async with loaded(kind, mapping(outputs), tmp_path) as backend:
        assert await backend.infer(EXAMPLES, timeout_seconds=DEADLINE_SECONDS) == predictions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"number": 1.5, "list": [1.0, 2.0]}, "number is 1.5, and an integer is wanted"),
        ({"number": "1", "list": [1.0, 2.0]}, "number is a string, and an integer is wanted"),
        (
            {"number": 2**70, "list": [1.0, 2.0]},
            "number is 1180591620717411303424, which does not fit int64",
        ),
        ({"number": None, "list": [1.0, 2.0]}, "number is null, and an integer is wanted"),
        ({"number": 1, "list": [1.0]}, "list has 1 value, 2 are wanted"),
        ({"number": 1, "list": [1.0, None]}, "list[1] is null, and a number is wanted"),
        ({"number": 1, "list": [[1.0, 2.0]]}, "list has 1 value, 2 are wanted"),
        ({"number": 1}, "the model needs an input 'list'"),
        ({"input_1": 1, "input_2": [1.0, 2.0]}, "the model needs an input 'number'"),
    ],
)
async def test_what_fits_no_declared_tensor_is_not_sent(
    kind: str, bad: JsonObject, told: str, tmp_path: Path
) -> None:
    """The batch fails because of its input, not of its server; each backend says why in the same sentence."""
    async with loaded(kind, mapping(), tmp_path) as backend:
        with pytest.raises(BackendFailedError) as failure:
            await backend.infer([EXAMPLES[0], bad], timeout_seconds=DEADLINE_SECONDS)
        assert type(failure.value) is BackendFailedError
        assert str(failure.value) == told


async def test_a_mapping_of_outputs_leaves_the_inputs_to_the_model(tmp_path: Path) -> None:
    """By the names of the model."""
    inputs: list[JsonObject] = [{"input_1": 1, "input_2": [0.5]}, {"input_1": 2, "input_2": [None]}]
    async with loaded("onnx", {"outputs": {"mine": "double"}}, tmp_path) as backend:
        assert await backend.infer(inputs, timeout_seconds=DEADLINE_SECONDS) == [2, 4]
    async with loaded("tensorflow row", {"outputs": {"mine": "double"}}, tmp_path) as backend:
        assert await backend.infer(inputs[:1], timeout_seconds=DEADLINE_SECONDS) == [2]


@pytest.mark.parametrize("kind", ["tensorflow row", "tensorflow column"])
async def test_an_output_that_the_server_has_not(kind: str, tmp_path: Path) -> None:
    """A fault of the version or its server; the message has the model's name of the output."""
    async with loaded(kind, mapping({"mine": "missing"}), tmp_path) as backend:
        with pytest.raises(BackendBrokenError, match="no output 'missing'"):
            await backend.infer(EXAMPLES, timeout_seconds=DEADLINE_SECONDS)


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        (mapping(number={"tensor": "input_3", "datatype": "INT64"}), "'number' matches no input"),
        (mapping(number={"datatype": "INT64"}), "'number' matches no input"),
        (mapping(number={"tensor": "input_1", "datatype": "INT32"}), "'number' matches no input"),
        (
            mapping(number={"tensor": "input_1", "datatype": "INT64", "shape": [1]}),
            "'number' matches no input",
        ),
        (mapping(list={"tensor": "input_2", "datatype": "FP32"}), "'list' matches no input"),
        (mapping(list={"tensor": "input_2", "datatype": "FP32", "shape": [2, 2]}), "'list' matches no input"),
        (mapping(number={"tensor": "input_2", "datatype": "INT64"}), "'number' matches no input"),
        (mapping(list=None), "has no entry for the model's input input_2"),
        (mapping({"mine": "missing"}), "model does not have: missing"),
    ],
)
async def test_a_model_here_is_held_against_the_mapping(
    declared: JsonObject, told: str, tmp_path: Path
) -> None:
    """At loading, not at the first request."""
    with pytest.raises(ArtifactError, match=told):
        await onnx(tmp_path, declared)


async def test_null_is_a_missing_value_where_a_mapping_says_so(tmp_path: Path) -> None:
    """It reaches a model here as NaN, which this one answers: no JSON."""
    list_of_two = INPUTS["list"]
    examples: list[JsonObject] = [EXAMPLES[0], {"number": 3, "list": [None, 1.0]}]
    backend = await onnx(tmp_path, mapping(list=list_of_two | {"null": "nan"}))
    answers = await backend.infer(examples, timeout_seconds=DEADLINE_SECONDS)
    assert answers[0] == CHOICES[0][1][0]
    assert isinstance(answers[1], NonFiniteResultError)
    await backend.close()


async def test_a_size_is_the_models_or_open_there(tmp_path: Path) -> None:
    """A mapping may fix an open size of the model, but not open a fixed one."""
    open_size = mapping(list={"tensor": "input_2", "datatype": "FP32", "shape": [-1]})
    for size, declared in (("size", mapping()), ("size", open_size), (2, mapping())):
        backend = await onnx(tmp_path, declared, size)
        assert await backend.infer(EXAMPLES, timeout_seconds=DEADLINE_SECONDS) == CHOICES[0][1]
        await backend.close()
    for size, declared in ((3, mapping()), (2, open_size)):
        with pytest.raises(ArtifactError, match="'list' matches no input"):
            await onnx(tmp_path, declared, size)

"""`headrace check`, run as its users do, on real ONNX models and on scripted model servers. No stack."""

import asyncio
import hashlib
import os
import pickle
import pty
from asyncio import StreamWriter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from onnx import helper

from schemas.events import JsonObject
from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.onnx_files import FLOAT, INT64, constant, save_endless, save_model, value
from tests.support.servers.http_server import HttpRequest, answer, doubled, http_server, serve_doubler
from tests.support.stack.command import HEADRACE, Ended, environment, headrace

NUMBER: JsonObject = {"type": "number"}
AMOUNT: JsonObject = {"type": "object", "required": ["amount"], "properties": {"amount": NUMBER}}
# A missing value is null.
DECLARED: JsonObject = {**AMOUNT, "properties": {"amount": {"type": ["number", "null"]}}}
AS_DECLARED = '{"type":"object","required":["amount"],"properties":{"amount":{"type":["number","null"]}}}'
X: JsonObject = {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}
# No server listens on this reserved port.
NOWHERE = "http://127.0.0.1:1"


def save_logarithm(folder: Path, batch: int | str = "N") -> Path:
    """`amount` FLOAT [N] → `score`, its logarithm; NaN below zero."""
    return save_model(
        folder / "m.onnx",
        [helper.make_node("Log", ["amount"], ["score"])],
        [value("amount", FLOAT, [batch])],
        [value("score", FLOAT, [batch])],
    )


def onnx(path: Path, **fields: Any) -> JsonObject:
    """A registration of the model at `path`."""
    return {
        "model_name": "fraud",
        "model": {
            "version": "v1",
            "framework": "onnx",
            "artifact_uri": path.as_uri(),
            "artifact_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "input_schema": AMOUNT,
            "output_schema": NUMBER,
            "example": {"input": {"amount": 1.0}},
            **fields,
        },
    }


def served(framework: str, endpoint: str, **fields: Any) -> JsonObject:
    model = {"version": "v1", "framework": framework, "endpoint": endpoint}
    schemas = {"input_schema": X, "output_schema": {"type": "integer"}}
    return {"model_name": "doubler", "model": model | schemas | {"example": {"input": {"x": 21}}} | fields}


async def check(folder: Path, registration: Any, *arguments: str, **fields: Any) -> Ended:
    """Check a registration, in a folder of its own, with a cache there."""
    (folder / "version.json").write_bytes(orjson.dumps(registration))
    settings = Settings(artifact_dir=str(folder / "artifacts"), **fields)
    return await headrace("check", "version.json", *arguments, settings=settings, cwd=folder)


async def refused(folder: Path, registration: Any, code: str) -> tuple[str, JsonObject]:
    """The output for a version that is refused, to people and to programs."""
    ended = await check(folder, registration, "--json")
    (document,) = ended.documents
    assert (ended.code, document["accepted"], document["error"]["code"]) == (REFUSED, False, code)
    assert ended.stderr == f"headrace: {code}: {document['error']['message']}\n"
    assert document["latency"] == []
    return ended.stderr, document


async def test_a_good_version_is_taken(tmp_path: Path) -> None:
    """With all that was found out; twice, the second time with a copy in the cache."""
    example = {"input": {"amount": 2.5}, "predictions": 0.9163}
    registration = onnx(save_logarithm(tmp_path), example=example)
    told = await check(tmp_path, registration)
    assert (told.code, told.stderr) == (0, "")
    assert told.stdout.startswith("fraud v1, onnx\n")
    assert f"input_schema, as the model declares it:\n{AS_DECLARED}\n" in told.stdout
    assert told.stdout.endswith("\nproduction would accept it\n")
    assert "\x1b" not in told.stdout
    ended = await check(tmp_path, registration, "--json")
    (document,) = ended.documents
    assert (ended.code, ended.stderr) == (0, "")
    latency = document.pop("latency")
    assert [row["batch_size"] for row in latency] == [1, 8, 32, 128, 512, 2048]
    assert all(row["calls"] > 1 and 0 < row["median_ms"] <= row["p99_ms"] for row in latency)
    assert document.pop("example") == {
        "input": {"amount": 2.5},
        "made": False,
        "predictions": pytest.approx(0.9163, abs=1e-4),
    }
    tensor = {"datatype": "FP32", "shape": []}
    assert document == {
        "model_name": "fraud",
        "version": "v1",
        "framework": "onnx",
        "accepted": True,
        "error": None,
        "problems": [],
        "warnings": [],
        "model": {
            "inputs": [{"key": "amount", "tensor": "amount", **tensor}],
            "outputs": [{"key": "score", "tensor": "score", **tensor}],
        },
        "input_schema": DECLARED,
        "output_schema": NUMBER,
    }


async def test_a_model_that_never_answers_is_refused(tmp_path: Path) -> None:
    """At the limit of its first call; the message names the setting."""
    ended = await check(
        tmp_path, onnx(save_endless(tmp_path / "m.onnx"), example=None), load_timeout_seconds=0.5
    )
    assert ended.code == REFUSED
    assert ended.stderr == (
        "headrace: NOT_LOADED: the model is not ready for its first call within 0.5 s; if it does not run without "
        "end, for example in a loop, raise HEADRACE_LOAD_TIMEOUT_SECONDS\n"
    )


async def test_standard_input_is_a_file_too(tmp_path: Path) -> None:
    """Where no example is given, one is made from a simple schema."""
    positive = {"type": "object", "required": ["amount"], "properties": {"amount": {"minimum": 1, **NUMBER}}}
    registration = onnx(save_logarithm(tmp_path), example=None, input_schema=positive)
    settings = Settings(artifact_dir=str(tmp_path / "artifacts"))
    ended = await headrace(
        "check", "-", "--json", settings=settings, stdin=orjson.dumps(registration), cwd=tmp_path
    )
    assert ended.code == 0
    assert ended.documents[0]["example"] == {"input": {"amount": 1}, "made": True, "predictions": 0.0}


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"artifact_sha256": "0" * 64}, "NOT_LOADED", "has SHA-256"),
        ({"output_schema": {"type": "integer"}}, "INVALID_OUTPUT", "do not match output_schema: it: 0.69"),
        (
            {"example": {"input": {"amount": "2"}}},
            "INVALID_EVENT",
            "example.input does not match input_schema",
        ),
        (
            {"input_schema": {}, "example": {"input": {"amount": "2"}}},
            "BACKEND_ERROR",
            "the model does not predict example.input: amount is a string, and a number is wanted",
        ),
        ({"example": {"input": {"amount": -1}}}, "BACKEND_ERROR", "'score' has NaN or Infinity"),
        # Made up: zero has no logarithm.
        ({"example": None}, "BACKEND_ERROR", "make input_schema refuse what the model cannot take"),
        (
            {"example": {"input": {"amount": 2}, "predictions": 0.7}},
            "WRONG_PREDICTIONS",
            "it: is 0.69314",
        ),
        ({"artifact_uri": "file:///no/such/model.onnx"}, "NOT_LOADED", "is not a file on this machine"),
        ({"artifact_uri": "file:///no/such/model.joblib"}, "NOT_LOADED", "pickles are never loaded"),
        (
            {"mapping": {"inputs": {"amount": {"datatype": "FP64"}}}},
            "NOT_LOADED",
            "the mapping of 'amount' matches no input of the model",
        ),
        ({"input_schema": {"type": "nothing"}}, "INVALID_EVENT", "input_schema is not a JSON Schema"),
    ],
)
async def test_what_production_would_refuse(
    tmp_path: Path, fields: JsonObject, code: str, message: str
) -> None:
    """Each with its code and a sentence."""
    example: JsonObject = {"example": {"input": {"amount": 2}}}
    told, _ = await refused(tmp_path, onnx(save_logarithm(tmp_path), **example | fields), code)
    assert message in told


async def test_a_wrong_example_leaves_the_model_to_be_looked_at(tmp_path: Path) -> None:
    """The error names what the server declares, which corrects the example."""
    registration = onnx(save_logarithm(tmp_path), example={"input": {}})
    _, document = await refused(tmp_path, registration, "INVALID_EVENT")
    assert document["input_schema"] == DECLARED


async def test_a_model_of_one_batch_size_is_refused(tmp_path: Path) -> None:
    """With what to export; also one that says it has any batch size, and has not."""
    told, _ = await refused(tmp_path, onnx(save_logarithm(tmp_path, batch=2)), "NOT_LOADED")
    assert "export the model with a dynamic first dimension" in told
    only_few = save_model(
        tmp_path / "few.onnx",
        [
            helper.make_node("Expand", ["amount", "four"], ["all"]),
            helper.make_node("ReduceMean", ["all"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["amount", "mean"], ["score"]),
        ],
        [value("amount", FLOAT, ["N"])],
        [value("score", FLOAT, ["N"])],
        [constant("four", np.array([8], np.int64))],
    )
    settings = Settings(artifact_dir=str(tmp_path / "artifacts"))
    stdin = orjson.dumps(onnx(only_few))
    ended = await headrace("check", "-", "--json", settings=settings, stdin=stdin, cwd=tmp_path)
    (document,) = ended.documents
    assert (ended.code, document["error"]["code"]) == (REFUSED, "BACKEND_ERROR")
    assert "the model does not predict 32 times example.input in one call" in document["error"]["message"]
    assert [row["batch_size"] for row in document["latency"]] == [1, 8]


async def test_a_pickle_is_refused_by_what_is_in_it(tmp_path: Path) -> None:
    """Whatever it is called, and without being loaded."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "made"),)

    path = tmp_path / "m.onnx"
    path.write_bytes(pickle.dumps(Trap()))
    told, _ = await refused(tmp_path, onnx(path), "NOT_LOADED")
    assert "pickles are never loaded" in told
    assert not (tmp_path / "made").exists()


async def test_what_is_no_registration_is_told_as_register_tells_it(tmp_path: Path) -> None:
    """The same sentences, and the same code."""
    for registration, message in (
        ({"model_name": "m"}, "INVALID_EVENT: "),
        ({"model": {}}, "INVALID_EVENT: "),
        ([], "INVALID_EVENT: version.json: a JSON object is needed"),
    ):
        ended = await check(tmp_path, registration)
        same = await headrace("register", "-f", "version.json", "--direct", cwd=tmp_path)
        assert ended.code == REFUSED
        assert ended.stderr.startswith(f"headrace: {message}")
        if "model_name" not in registration:
            # What needs no registry to be refused.
            assert same.stderr == ended.stderr
    absent = await headrace("check", "absent.json", cwd=tmp_path)
    assert absent.code == 2
    assert "absent.json cannot be read: No such file or directory" in absent.stderr


async def test_the_uri_is_asked_although_a_copy_is_stored(tmp_path: Path) -> None:
    """The stored copy says nothing about what other machines find there: a file that is gone, or that is another."""
    path = save_logarithm(tmp_path)
    registration = onnx(path)
    assert (await check(tmp_path, registration)).code == 0
    path.rename(tmp_path / "moved.onnx")
    told, _ = await refused(tmp_path, registration, "NOT_LOADED")
    assert "is not a file on this machine" in told
    path.write_bytes(b"another")
    told, _ = await refused(tmp_path, registration, "NOT_LOADED")
    assert f"{registration['model']['artifact_sha256']} is registered" in told
    registration["model"]["artifact_uri"] = f"{NOWHERE}/m.onnx"
    assert (await check(tmp_path, registration)).code == 3


async def test_misspelt_fields_are_refused_by_name(tmp_path: Path) -> None:
    """By check and by register: a version never changes, and would lack the field for ever."""
    registration = onnx(
        save_logarithm(tmp_path),
        fallbak="production",
        cache_ttl_second=5,
        server={"max_call": 1},
        example={"input": {"amount": 1.0}, "prediction": 0.0},
        mapping={"inputs": {"amount": {"datatype": "FP32", "shap": []}}},
    )
    registration["reason"] = "why not"
    ended = await check(tmp_path, registration)
    registered = await headrace("register", "-f", "version.json", "--direct", cwd=tmp_path)
    assert (ended.code, registered.code) == (REFUSED, REFUSED)
    assert registered.stderr == ended.stderr
    assert ended.stderr.startswith("headrace: INVALID_EVENT: version.json: ")
    for problem in (
        "model.fallbak is not a field; did you mean fallback?",
        "model.cache_ttl_second is not a field; did you mean cache_ttl_seconds?",
        "model.server.max_call is not a field; did you mean max_calls?",
        "model.example.prediction is not a field; did you mean predictions?",
        "model.mapping.inputs.amount.shap is not a field; did you mean shape?",
    ):
        assert problem in ended.stderr


async def test_what_contradicts_the_model_is_a_warning(tmp_path: Path) -> None:
    """Production would take the version, and answer such requests with an error."""
    registration = onnx(save_logarithm(tmp_path), input_schema={"properties": {"amount": {}}})
    ended = await check(tmp_path, registration)
    assert ended.code == 0
    assert "\nwarning: input_schema does not require 'amount'" in ended.stdout
    assert "\nwarning: input_schema lets through a list, a string at 'amount'" in ended.stdout


async def test_without_an_example_the_types_are_compared(tmp_path: Path) -> None:
    """What cannot be checked is said, and that is not a refusal."""
    schema = {"properties": {"amount": {"type": "string", "pattern": "^[0-9]{4}$"}}}
    registration = onnx(
        save_logarithm(tmp_path), example=None, input_schema=schema, output_schema={"type": "string"}
    )
    ended = await check(tmp_path, registration, "--json")
    (document,) = ended.documents
    assert (ended.code, document["example"], document["latency"]) == (0, None, [])
    unchecked, of_input, of_output = document["warnings"]
    assert "none can be made" in unchecked
    assert of_input.startswith("input_schema does not fit what the model declares, at /amount")
    assert of_output.startswith("output_schema does not fit what the model declares, at its root")


async def test_several_outputs_and_a_mapping_of_one(tmp_path: Path) -> None:
    """The derived schema has all outputs, or those that the mapping chooses; undeclared ones may be anything."""
    path = save_model(
        tmp_path / "m.onnx",
        [
            helper.make_node("Identity", ["x"], ["same"]),
            # A shape that is only known when it runs, so that no rank can be declared.
            helper.make_node("Shape", ["x"], ["sizes"]),
            helper.make_node("Greater", ["sizes", "zero"], ["kept"]),
            helper.make_node("Compress", ["sizes", "kept"], ["shape"], axis=0),
            helper.make_node("Reshape", ["x", "shape"], ["y"]),
        ],
        [value("x", INT64, ["N", "length"])],
        [value("same", INT64, ["N", "length"]), value("y", INT64, None)],
        [constant("zero", np.int64(0))],
    )
    integers = {"type": "array", "items": {"type": "integer"}}
    both = await check(
        tmp_path, onnx(path, example={"input": {"x": [5]}}, input_schema={}, output_schema={}), "--json"
    )
    assert both.documents[0]["output_schema"] == {
        "type": "object",
        "required": ["same", "y"],
        "properties": {"same": integers, "y": {}},
    }
    assert both.documents[0]["model"]["outputs"][1]["shape"] is None
    mapping = {
        "inputs": {"tokens": {"tensor": "x", "datatype": "INT64", "shape": [-1]}},
        "outputs": {"out": "same"},
    }
    example = {"input": {"tokens": [5, 9]}, "predictions": [5, 9]}
    one = await check(
        tmp_path,
        onnx(path, mapping=mapping, example=example, input_schema={}, output_schema=integers),
        "--json",
    )
    assert one.code == 0
    assert one.documents[0]["output_schema"] == integers
    assert one.documents[0]["model"]["inputs"] == [
        {"key": "tokens", "tensor": "x", "datatype": "INT64", "shape": [-1]}
    ]


async def test_a_model_behind_the_open_inference_protocol(tmp_path: Path) -> None:
    """By the server's metadata; a mapping that says otherwise is a warning."""
    async with http_server(serve_doubler) as url:
        ended = await check(tmp_path, served("open-inference", f"{url}/v2/models/doubler"), "--json")
        mapping = {"inputs": {"x": {"datatype": "INT32"}}}
        mapped = await check(
            tmp_path,
            served("open-inference", f"{url}/v2/models/doubler", mapping=mapping, max_batch=1),
            "--json",
        )
    (document,) = ended.documents
    assert (ended.code, document["warnings"]) == (0, [])
    assert document["output_schema"] == {"type": "integer"}
    assert document["example"]["predictions"] == 42
    assert [row["batch_size"] for row in document["latency"]] == [1, 8, 32, 128, 256]
    assert mapped.code == 0
    assert "the mapping of 'x' is INT32, and the model declares INT64" in mapped.documents[0]["warnings"]


DOUBLER = {"model": "doubler", "version": "1"}


async def serve_tensorflow(request: HttpRequest, writer: StreamWriter) -> None:
    """The doubler by TensorFlow Serving's REST, where it is called `doubler` and has a signature."""
    told = {"dtype": "DT_INT64", "tensor_shape": {"dim": [{"size": "-1"}], "unknown_rank": False}}
    if not request.path.startswith("/v1/models/doubler"):
        writer.write(answer({"error": "no such model"}, 404))
    elif request.path.endswith("/metadata"):
        signature = {"inputs": {"x": told}, "outputs": {"y": told}}
        writer.write(
            answer({"metadata": {"signature_def": {"signature_def": {"serving_default": signature}}}})
        )
    elif request.method == "GET":
        writer.write(answer({"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}))
    else:
        instances = request.json()["instances"]
        if len(instances) > 8:
            # It never answers a batch of this size.
            await asyncio.Event().wait()
        writer.write(answer({"predictions": [2 * instance["x"] for instance in instances]}))


async def refuse_large_calls(request: HttpRequest, writer: StreamWriter) -> None:
    """Predictions for up to eight examples."""
    if request.method == "GET" or len(request.json()["instances"]) <= 8:
        await serve_tensorflow(request, writer)
    else:
        writer.write(answer({"error": "too large"}, 413))


async def test_calls_that_are_too_large_are_no_reason_against_a_version(tmp_path: Path) -> None:
    """A worker makes smaller ones."""
    async with http_server(refuse_large_calls) as url:
        told = await check(tmp_path, served("tensorflow", url, server=DOUBLER), "--json")
    (document,) = told.documents
    assert (told.code, document["accepted"]) == (0, True)
    (warning,) = document["warnings"]
    assert "413" in warning
    assert warning.endswith("; a worker makes smaller calls")
    assert [row["batch_size"] for row in document["latency"]] == [1, 8]


async def test_a_model_behind_tensorflow_serving(tmp_path: Path) -> None:
    """By its signature; a batch without an answer in time is a warning, and none above max_batch is tried."""
    async with http_server(serve_tensorflow) as url:
        large = served("tensorflow", url, server={**DOUBLER}, timeout_ms=3000)
        late = await check(tmp_path, large, "--json")
        large["model"]["max_batch"] = 8
        ended = await check(tmp_path, large, "--json")
        del large["model"]["server"]["version"]
        newest = await check(tmp_path, large, "--json")
        absent = await check(tmp_path, served("tensorflow", url, server={"model": "other"}), "--json")
    assert late.code == 0
    (warning,) = late.documents[0]["warnings"]
    assert warning == (
        "no prediction for 32 times example.input in one call within timeout_ms, 3000 ms; "
        "a worker makes smaller calls"
    )
    (document,) = ended.documents
    assert (ended.code, document["example"]["predictions"], document["warnings"]) == (0, 42, [])
    assert document["output_schema"] == {"type": "integer"}
    assert [row["batch_size"] for row in document["latency"]] == [1, 8]
    (warning,) = newest.documents[0]["warnings"]
    assert "the server answers by its newest version" in warning
    assert (absent.code, absent.documents[0]["error"]["code"]) == (REFUSED, "NOT_LOADED")


async def test_a_server_that_tells_nothing_of_its_model(tmp_path: Path) -> None:
    """The example is what there is to go by."""

    async def serve(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(answer(2 * request.json()["x"]))

    async with http_server(serve) as url:
        ended = await check(tmp_path, served("torchserve", f"{url}/predictions/doubler"), "--json")
    (document,) = ended.documents
    assert (ended.code, document["model"], document["input_schema"]) == (0, None, None)
    assert (document["example"]["predictions"], len(document["latency"])) == (42, 3)


@pytest.mark.parametrize("framework", ["onnx", "open-inference", "tensorflow", "torchserve"])
async def test_who_is_not_reachable_is_told(tmp_path: Path, framework: str) -> None:
    """A store or a server that is not there: another code, since nothing was found against the version."""
    registration = served(framework, f"{NOWHERE}/v1/models/doubler")
    if framework == "onnx":
        path = save_logarithm(tmp_path)
        registration = onnx(path, artifact_uri=f"{NOWHERE}/m.onnx")
    ended = await check(tmp_path, registration, "--json")
    (document,) = ended.documents
    assert (ended.code, document["accepted"], document["error"]["code"]) == (3, False, "UNAVAILABLE")
    assert ended.stderr == f"headrace: {document['error']['message']}\n"


async def test_a_server_that_is_not_listed_is_not_called(tmp_path: Path) -> None:
    """The settings of this machine decide, as a worker's do."""
    told, _ = await refused(tmp_path, served("tensorflow", "http://models.example"), "NOT_LOADED")
    assert "HEADRACE_BACKEND_HOSTS" in told


async def test_a_model_that_answers_by_its_batch_is_a_warning(tmp_path: Path) -> None:
    """The prediction of a user would depend on the other users of the batch."""

    async def serve(request: HttpRequest, writer: StreamWriter) -> None:
        if request.method == "GET":
            await serve_doubler(request, writer)
            return
        document = doubled(request)
        document["outputs"][0]["data"][-1] += document["outputs"][0]["shape"][0] - 1
        writer.write(answer(document))

    async with http_server(serve) as url:
        ended = await check(tmp_path, served("open-inference", f"{url}/v2/models/doubler"), "--json")
    assert ended.code == 0
    assert ended.documents[0]["warnings"][0] == (
        "the model predicts otherwise for 8 examples in one call: it: is 49, not 42"
    )


async def test_bars_and_colours_are_for_a_terminal(tmp_path: Path) -> None:
    """Bars on standard error while it works, and the verdict in colour."""
    (tmp_path / "version.json").write_bytes(orjson.dumps(onnx(save_logarithm(tmp_path))))
    terminal, other_end = pty.openpty()
    shown, told = bytearray(), asyncio.Event()

    def read() -> None:
        # A terminal holds few bytes; were they not read, the command would stop.
        shown.extend(os.read(terminal, 65536))
        if b"production would accept it" in shown:
            told.set()

    asyncio.get_running_loop().add_reader(terminal, read)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            process = await asyncio.create_subprocess_exec(
                *(HEADRACE, "check", "version.json"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=other_end,
                stderr=other_end,
                cwd=tmp_path,
                env=environment(Settings(artifact_dir=str(tmp_path / "artifacts")))
                | {"TERM": "xterm-256color"},
            )
            assert await process.wait() == 0
            await told.wait()
    finally:
        asyncio.get_running_loop().remove_reader(terminal)
        os.close(terminal)
        os.close(other_end)
    assert b"model file" in shown
    assert b"latency, 32 in a call" in shown
    assert b"\x1b[32mproduction would accept it" in shown

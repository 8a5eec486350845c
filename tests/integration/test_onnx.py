"""workers/backends/onnx.py on real models: loading, answering and refusing."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from schemas.errors import ArtifactError, BackendFailedError, LoadTimeoutError, NonFiniteResultError
from streams.models.backend_loader import warm
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.loaded_onnx import Load, onnx_loader
from tests.support.models.onnx_files import (
    FLOAT,
    INT64,
    STRING,
    constant,
    save_doubler,
    save_endless,
    save_model,
    value,
)
from workers.artifacts.sources import ArtifactSources
from workers.artifacts.store import ArtifactStore
from workers.backends.onnx import OnnxBackend
from workers.backends.onnx_session import open_session
from workers.calls.isolate import infer_each


@pytest.fixture
async def load() -> AsyncIterator[Load]:
    async with onnx_loader() as load_one:
        yield load_one


def identity(path: Path, element: int, shape: Sequence[int | str | None]) -> Path:
    """A model that answers its input `x` as its output `y`."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return save_model(path, [node], [value("x", element, shape)], [value("y", element, shape)])


@pytest.mark.parametrize(
    ("element", "example"),
    [
        (TensorProto.FLOAT, 1.5),
        (TensorProto.DOUBLE, 0.1),
        (TensorProto.FLOAT16, -2.0),
        (TensorProto.INT8, -128),
        (TensorProto.INT16, 2**15 - 1),
        (TensorProto.INT32, -(2**31)),
        (TensorProto.INT64, 2**63 - 1),
        (TensorProto.UINT8, 255),
        (TensorProto.UINT16, 2**16 - 1),
        (TensorProto.UINT32, 2**32 - 1),
        (TensorProto.UINT64, 2**64 - 1),
        (TensorProto.BOOL, True),
        (TensorProto.STRING, "naïve 日本"),
    ],
)
async def test_every_type_goes_in_and_out(load: Load, tmp_path: Path, element: int, example: Any) -> None:
    """Plain values and lists of them, of each type, as Python values of JSON's kinds."""
    plain = await load(identity(tmp_path / "plain.onnx", element, ["N"]))
    nested = await load(identity(tmp_path / "nested.onnx", element, ["N", 1, 2]))
    await plain.warm()
    assert await plain.infer([{"x": example}] * 3, timeout_seconds=DEADLINE_SECONDS) == [example] * 3
    answer = await nested.infer([{"x": [[example, example]]}], timeout_seconds=DEADLINE_SECONDS)
    assert answer == [[[example, example]]]
    assert type(answer[0][0][0]) is type(example)


async def test_several_outputs_are_an_object(load: Load, tmp_path: Path) -> None:
    """With two inputs by name in, and two outputs by name out."""
    backend = await load(
        save_model(
            tmp_path / "m.onnx",
            [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Identity", ["label"], ["echo"])],
            [value("a", INT64, ["N"]), value("b", INT64, ["N"]), value("label", STRING, ["N", 1])],
            [value("sum", INT64, ["N"]), value("echo", STRING, ["N", 1])],
        )
    )
    await backend.warm()
    inputs = [{"label": ["x"], "b": 1, "a": 2, "unused": {}}, {"a": 10, "b": 20, "label": ["y"]}]
    assert await backend.infer(inputs, timeout_seconds=DEADLINE_SECONDS) == [
        {"sum": 3, "echo": ["x"]},
        {"sum": 30, "echo": ["y"]},
    ]


async def test_open_sizes_may_differ_in_a_batch(load: Load, tmp_path: Path) -> None:
    """Examples of different lengths are answered in their order."""
    backend = await load(identity(tmp_path / "m.onnx", INT64, ["N", "length"]))
    await backend.warm()
    examples = [[1], [1, 2, 3], [2], [], [4, 5, 6]]
    assert await backend.infer([{"x": x} for x in examples], timeout_seconds=DEADLINE_SECONDS) == examples


async def test_an_index_out_of_range_fails_alone(load: Load, tmp_path: Path) -> None:
    """The model's error is short, and only the example that caused it gets it."""
    backend = await load(
        save_model(
            tmp_path / "m.onnx",
            [helper.make_node("Gather", ["table", "x"], ["y"])],
            [value("x", INT64, ["N"])],
            [value("y", FLOAT, ["N", 2])],
            [constant("table", np.ones((3, 2), np.float32))],
        )
    )
    await backend.warm()
    good: Any = [1.0, 1.0]
    outcomes = await infer_each(backend, [{"x": 0}, {"x": 99}, {"x": 2}], timeout_seconds=DEADLINE_SECONDS)
    assert [outcomes[0], outcomes[2]] == [good, good]
    assert isinstance(outcomes[1], BackendFailedError)
    assert "idx=99" in str(outcomes[1])
    assert len(str(outcomes[1])) < 300


@pytest.mark.parametrize("bad", [-1.0, 0.0])
async def test_nan_and_infinity_fail_alone(load: Load, tmp_path: Path, bad: float) -> None:
    """log(-1) and log(0) are no JSON; their neighbours are answered."""
    backend = await load(
        save_model(
            tmp_path / "m.onnx",
            [helper.make_node("Log", ["x"], ["y"])],
            [value("x", FLOAT, ["N"])],
            [value("y", FLOAT, ["N"])],
        )
    )
    await backend.warm()
    outcomes = await infer_each(
        backend, [{"x": 1.0}, {"x": bad}, {"x": math.e}], timeout_seconds=DEADLINE_SECONDS
    )
    assert isinstance(outcomes[1], BackendFailedError)
    assert [outcomes[0], outcomes[2]] == pytest.approx([0.0, 1.0], abs=1e-6)
    # Each row is known by one run, however many are bad.
    many = await backend.infer([{"x": bad}, {"x": 1.0}] * 500, timeout_seconds=DEADLINE_SECONDS)
    assert many[1::2] == [0.0] * 500
    assert all(isinstance(outcome, NonFiniteResultError) for outcome in many[::2])


async def test_a_first_call_that_never_ends_is_ended(load: Load, tmp_path: Path) -> None:
    """With its task; the thread of the session ends too."""
    backend = await load(save_endless(tmp_path / "m.onnx"))
    with pytest.raises(LoadTimeoutError, match="HEADRACE_LOAD_TIMEOUT_SECONDS"):
        await warm(backend, timeout_seconds=0.1)
    await asyncio.wait_for(
        asyncio.get_running_loop().run_in_executor(backend._executor, str), DEADLINE_SECONDS
    )


async def test_a_load_that_is_cancelled_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime folds the constants of a model when it loads it, however long that takes."""
    names = [f"m{number}" for number in range(400)]
    nodes = [
        helper.make_node("MatMul", [before, "c"], [after])
        for before, after in zip(["c", *names], names, strict=False)
    ]
    path = save_model(
        tmp_path / "m.onnx",
        [
            *nodes,
            helper.make_node("ReduceSum", [names[-1]], ["s"], keepdims=0),
            helper.make_node("Add", ["x", "s"], ["y"]),
        ],
        [value("x", FLOAT, ["N"])],
        [value("y", FLOAT, ["N"])],
        [constant("c", np.ones((800, 800), "float32"))],
    )
    opening, ended = asyncio.Event(), asyncio.Event()
    errors: list[str] = []
    loop = asyncio.get_running_loop()

    def opened(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(opening.set)
        try:
            return open_session(*arguments)
        except ArtifactError as error:
            errors.append(str(error))
            raise
        finally:
            loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr("workers.backends.onnx.open_session", opened)
    load = asyncio.create_task(OnnxBackend.load(path, threads=1))
    await asyncio.wait_for(opening.wait(), DEADLINE_SECONDS)
    load.cancel()
    await asyncio.wait_for(ended.wait(), DEADLINE_SECONDS)
    assert "MODEL_LOAD_CANCELED" in errors[0]
    assert load.cancelled()


async def test_the_event_loop_goes_on_while_a_model_runs(load: Load, tmp_path: Path) -> None:
    """A long run does not keep other runs waiting."""
    backend = await load(save_doubler(tmp_path / "m.onnx"))
    running = asyncio.create_task(backend.infer([{"x": 10**15}], timeout_seconds=DEADLINE_SECONDS))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    # The cancelled run is ended, so the next one gets its turn.
    assert await backend.infer([{"x": 21}], timeout_seconds=DEADLINE_SECONDS) == [42]


def test_a_model_is_read_only_as_declared(tmp_path: Path) -> None:
    """What is no ONNX model is refused, a pickle without being read."""
    path = tmp_path / "m.onnx"
    # A pickle that would make a folder.
    path.write_bytes(b"cos\nmkdir\n(S'" + str(tmp_path / "made").encode() + b"'\ntR.")
    with pytest.raises(ArtifactError, match="cannot be loaded as an ONNX model"):
        asyncio.run(OnnxBackend.load(path, threads=1))
    assert not (tmp_path / "made").exists()
    with pytest.raises(ArtifactError, match="cannot be loaded as an ONNX model"):
        asyncio.run(OnnxBackend.load(tmp_path / "missing.onnx", threads=1))


@pytest.mark.parametrize("shape", [[8], [3, 4]])
async def test_a_model_without_open_batch_is_refused(
    load: Load, tmp_path: Path, shape: Sequence[int | str | None]
) -> None:
    """At loading, with what to export."""
    with pytest.raises(ArtifactError, match="export the model with a dynamic first dimension"):
        await load(identity(tmp_path / "m.onnx", FLOAT, shape))


async def test_a_model_that_takes_no_zeros_is_served(load: Load, tmp_path: Path) -> None:
    """The warm-up fails, is logged, and nothing else."""
    backend = await load(
        save_model(
            tmp_path / "m.onnx",
            [helper.make_node("Reshape", ["x", "shape"], ["y"])],
            [value("x", INT64, ["N", "length"])],
            [value("y", INT64, ["N", 2, "half"])],
            [constant("shape", np.array([0, 2, -1]))],
        )
    )
    with capture_logs() as logs:
        await backend.warm()
    assert [log["event"] for log in logs] == ["model not warmed up"]
    assert await backend.infer([{"x": [1, 2, 3, 4]}], timeout_seconds=DEADLINE_SECONDS) == [[[1, 2], [3, 4]]]


def external_model(folder: Path, location: str) -> Path:
    """A model whose weights are said to be in the file `location`."""
    weights = TensorProto(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, content in (("location", location), ("offset", "0"), ("length", "8")):
        weights.external_data.add(key=key, value=content)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "graph",
        [value("x", FLOAT, ["N", 2])],
        [value("y", FLOAT, ["N", 2])],
        initializer=[weights],
    )
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )
    return path


@pytest.mark.parametrize(
    "location", ["../secret.bin", "sub/../../secret.bin", "{folder}/secret.bin", "link.bin"]
)
async def test_data_outside_the_folder_is_refused(load: Load, tmp_path: Path, location: str) -> None:
    """By a way up, by an absolute path, and by a symbolic link in the folder."""
    (tmp_path / "secret.bin").write_bytes(np.ones(2, np.float32).tobytes())
    folder = tmp_path / "model"
    path = external_model(folder, location.format(folder=tmp_path))
    (folder / "sub").mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ArtifactError, match="in a second file"):
        await load(path)


async def test_external_data_is_what_was_refused(load: Load, tmp_path: Path) -> None:
    """The same model loads with its data inside: the refusals above are for where it lies."""
    path = external_model(tmp_path / "model", "data.bin")
    (path.parent / "data.bin").write_bytes(np.ones(2, np.float32).tobytes())
    backend = await load(path)
    assert await backend.infer([{"x": [1.0, 2.0]}], timeout_seconds=DEADLINE_SECONDS) == [[2.0, 3.0]]


async def test_a_fetched_model_has_no_data_beside_it(load: Load, tmp_path: Path) -> None:
    """The registered digest covers all that is loaded: a model in two files is not."""
    path = external_model(tmp_path / "model", "data.bin")
    (path.parent / "data.bin").write_bytes(np.ones(2, np.float32).tobytes())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    store = ArtifactStore(tmp_path / "cache", ArtifactSources(), max_bytes=10**9, cache_bytes=10**9)
    async with store.fetched(path.as_uri(), digest) as fetched:
        with pytest.raises(ArtifactError, match="in a second file"):
            await load(fetched)

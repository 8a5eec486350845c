"""workers/backends/tensorflow_messages.py: what is sent to TensorFlow's REST, and what is believed of its answers."""

from typing import Any

import orjson
import pytest

from schemas.errors import BackendBrokenError, BackendFailedError, NonFiniteResultError
from schemas.events import JsonObject
from schemas.models import RequestForm
from workers.backends.tensorflow_messages import read_response, read_status, write_request

INPUTS: list[JsonObject] = [{"a": 1, "b": [1, 2]}, {"a": 2, "b": [3, 4]}]


def written(form: RequestForm, inputs: list[JsonObject] = INPUTS, **fields: Any) -> JsonObject:
    arguments = {"signature_name": None, "tensors": None} | fields
    document: JsonObject = orjson.loads(write_request(form, inputs=inputs, **arguments))
    return document


def read(body: Any, count: int = 2, outputs: dict[str, str] | None = None) -> list[Any]:
    return read_response(body if isinstance(body, bytes) else orjson.dumps(body), count, outputs)


def test_rows_are_objects_as_they_came() -> None:
    """One for each example; the signature is sent only if the version names one."""
    assert written(RequestForm.ROW) == {"instances": INPUTS}
    assert written(RequestForm.ROW, signature_name="s") == {"signature_name": "s", "instances": INPUTS}


def test_values_are_bare() -> None:
    """For a model with one unnamed input; an input with several keys is refused."""
    assert written(RequestForm.VALUE, [{"a": [1]}, {"a": [2]}]) == {"instances": [[1], [2]]}
    nothing: list[JsonObject] = [{}]
    for bad in (INPUTS, nothing):
        with pytest.raises(BackendFailedError, match="one value alone"):
            written(RequestForm.VALUE, bad)
    assert written(RequestForm.VALUE, tensors={"a": "a"}) == {"instances": [1, 2]}


def test_columns_have_the_whole_batch_by_tensor() -> None:
    """Inputs with different keys are refused."""
    assert written(RequestForm.COLUMN) == {"inputs": {"a": [1, 2], "b": [[1, 2], [3, 4]]}}
    with pytest.raises(BackendFailedError, match="different keys"):
        written(RequestForm.COLUMN, [{"a": 1}, {"b": 1}])


def test_null_is_nan_in_the_keys_that_take_it() -> None:
    """As TensorFlow Serving reads it; in other keys null stays what it is."""
    inputs: list[JsonObject] = [{"a": [None, 1.5], "b": None}]
    content = write_request(RequestForm.ROW, None, {"a": "x", "b": "b"}, inputs, nullable={"a"})
    assert content == b'{"instances": [{"x": [NaN, 1.5], "b": null}]}'


def test_base64_is_sent_as_bytes() -> None:
    """In the form of TensorFlow Serving, at any depth."""
    inputs: list[JsonObject] = [{"image": "aGk=", "tags": ["YQ==", "Yg=="], "name": "as it is"}]
    content = write_request(RequestForm.ROW, None, None, inputs, base64={"image", "tags"})
    assert orjson.loads(content)["instances"] == [
        {"image": {"b64": "aGk="}, "tags": [{"b64": "YQ=="}, {"b64": "Yg=="}], "name": "as it is"}
    ]


@pytest.mark.parametrize("form", [RequestForm.ROW, RequestForm.COLUMN])
def test_a_mapping_renames_and_leaves_out(form: RequestForm) -> None:
    """A missing input is named by the user's key."""
    document = written(form, tensors={"a": "input_1"})
    if form is RequestForm.ROW:
        assert document == {"instances": [{"input_1": 1}, {"input_1": 2}]}
    else:
        assert document == {"inputs": {"input_1": [1, 2]}}
    with pytest.raises(BackendFailedError, match="needs an input 'c'"):
        written(form, tensors={"c": "input_1"})


def test_rows_come_back_in_order() -> None:
    """Of any type; the output schema validates them."""
    for rows in ([1, 2], [[1], [2]], [{"y": 1, "z": 2}, {"y": 3, "z": 4}], [None, "x"]):
        assert read({"predictions": rows}) == rows
    assert read({"predictions": []}, 0) == []


def test_columns_come_back_by_example() -> None:
    """A single output as its value, several by name."""
    assert read({"outputs": [1, 2]}) == [1, 2]
    assert read({"outputs": {"y": [1, 2]}}) == [1, 2]
    assert read({"outputs": {"y": [1, 2], "z": [[3], [4]]}}) == [{"y": 1, "z": [3]}, {"y": 2, "z": [4]}]


def test_outputs_are_chosen_by_the_mapping() -> None:
    """The model's names become the version's keys; a single output is the prediction itself."""
    rows = {"predictions": [{"y": 1, "z": 2}, {"y": 3, "z": 4}]}
    columns = {"outputs": {"y": [1, 3], "z": [2, 4]}}
    for body in (rows, columns):
        assert read(body, outputs={"mine": "z"}) == [2, 4]
        assert read(body, outputs={"p": "z", "q": "y"}) == [{"p": 2, "q": 1}, {"p": 4, "q": 3}]
        with pytest.raises(BackendBrokenError, match="no output 'missing'"):
            read(body, outputs={"p": "y", "q": "missing"})
    # The server leaves the name out where there is one output.
    assert read({"predictions": [1, 2]}, outputs={"mine": "y"}) == [1, 2]
    assert read({"outputs": [1, 2]}, outputs={"mine": "y"}) == [1, 2]
    for form in ("predictions", "outputs"):
        with pytest.raises(BackendBrokenError, match="no output"):
            read({form: [1, 2]}, outputs={"p": "y", "q": "z"})


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"predictions": None},
        {"predictions": {"0": 1, "1": 2}},
        {"predictions": "ab"},
        {"predictions": [1]},
        {"predictions": [1, 2, 3]},
        {"outputs": {}},
        {"outputs": 2},
        {"outputs": [1]},
        {"outputs": {"y": [1]}},
        {"outputs": {"y": [1, 2], "z": [1]}},
        {"outputs": {"y": 1}},
        {"outputs": {"y": "ab"}},
        {"error": "why"},
        [1, 2],
        b'{"predictions": [1, 2]',
        b"",
    ],
)
def test_an_answer_that_is_not_whole_is_broken(body: Any) -> None:
    """No example gets another's prediction, or a part of one."""
    with pytest.raises(BackendBrokenError):
        read(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"model_version_status": [{"state": "AVAILABLE"}]}', None),
        (b'{"model_version_status": [{"state": "END"}, {"state": "AVAILABLE"}]}', None),
        (b'{"model_version_status": [{"state": "LOADING"}, {"state": "END"}]}', "its state is LOADING, END"),
        (b'{"name": "m", "ready": true}', None),
        (b'{"name": "m", "ready": "True"}', None),
        (b'{"name": "m", "ready": false}', "it is not ready"),
        (b'{"name": "m", "ready": "False"}', "it is not ready"),
        (b"{}", None),
        (b"OK", None),
        (b'{"model_version_status": []}', None),
    ],
)
def test_a_state_is_believed_where_it_is_told(body: bytes, reason: str | None) -> None:
    """In TensorFlow Serving's form and in KServe's; no state means ready."""
    assert read_status(body) == reason


@pytest.mark.parametrize("bad", [b"NaN", b'{"p": [1.0, Infinity]}', b'[NaN, "\\ud800"]'])
@pytest.mark.parametrize("key", [b"predictions", b"outputs"])
def test_a_prediction_that_is_not_json_fails_alone(bad: bytes, key: bytes) -> None:
    """The other examples have their predictions."""
    first, failed, last = read_response(b'{"%b": [1, %b, "NaN"]}' % (key, bad), 3)
    assert (first, last) == (1, "NaN")
    assert isinstance(failed, NonFiniteResultError)

"""workers/backends/onnx_tensors.py: which outputs are served, by what a model declares and what it does."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from schemas.errors import ArtifactError, BackendFailedError
from workers.backends.onnx_tensors import (
    Output,
    read_inputs,
    read_outputs,
    read_values,
    takes_one,
    warm_up_examples,
    with_batch,
)


@dataclass(frozen=True)
class Node:
    name: str
    type: str
    shape: list[Any]


BATCHED = Node("x", "tensor(float)", ["N", 3])
LABEL = Node("label", "tensor(int64)", [1])
SCORE = Node("score", "tensor(float)", ["N", 3])
FIXED = Node("fixed", "tensor(float)", [2])
UNDECLARED = Node("undeclared", "tensor(float)", [])
MAPS = Node("maps", "seq(map(string,tensor(float)))", [])
COMPLEX = Node("complex", "tensor(complex64)", ["N"])


def outputs(*nodes: Node) -> list[Output]:
    return read_outputs(nodes, [], [BATCHED])


def names(kept: list[Output]) -> list[str]:
    return [output.name for output in kept]


def test_only_named_outputs_are_judged() -> None:
    """In the order of the mapping; without names all are, with what to do about one that cannot be served."""
    assert names(read_outputs([COMPLEX, LABEL, SCORE], ["score", "label"], [BATCHED])) == ["score", "label"]
    with pytest.raises(ArtifactError, match=r"'complex' is tensor\(complex64\).*mapping.outputs"):
        outputs(SCORE, COMPLEX)
    with pytest.raises(ArtifactError, match="does not have: absent"):
        read_outputs([SCORE], ["absent"], [BATCHED])


@pytest.mark.parametrize(("fixed", "examples"), [([], 2), ([1], 2), ([2], 3), ([2, 3], 4)])
def test_no_fixed_size_is_the_batch_by_chance(fixed: list[int], examples: int) -> None:
    """The warm-up has a number of examples that no output declares."""
    assert warm_up_examples(outputs(SCORE, *(Node(str(n), "tensor(float)", [n]) for n in fixed))) == examples


def test_what_grows_with_the_batch_is_served() -> None:
    """Whatever it declares; what does not grow is left out, or refused when it is named or nothing is left."""
    all_of_them = outputs(LABEL, SCORE, FIXED, UNDECLARED, MAPS)
    grown = {"label": [3], "score": [3, 3], "fixed": [2], "undeclared": [3], "maps": [3]}
    assert names(with_batch(all_of_them, grown, 3, named=False)) == ["label", "score", "undeclared", "maps"]
    with pytest.raises(ArtifactError, match=r"output 'fixed' has shape \[2\] for 3 examples"):
        with_batch(all_of_them, grown, 3, named=True)
    with pytest.raises(ArtifactError, match=r"output 'fixed' has shape \[\] for 3 examples"):
        with_batch(outputs(FIXED), {"fixed": []}, 3, named=False)


@pytest.mark.parametrize(
    ("declared", "shown", "shape"),
    [
        (["N", 3], [2, 3], (3,)),
        (["N", "open"], [2, 3], (None,)),
        (["N", 3], [2, 4], (None,)),
        (["N"], [2, 1], (None,)),
        (["N", 1], [2], ()),
    ],
)
def test_sizes_are_what_a_run_shows(
    declared: list[Any], shown: list[int], shape: tuple[int | None, ...]
) -> None:
    """A declaration that is wrong leaves them open."""
    (output,) = outputs(Node("y", "tensor(float)", declared))
    assert output.shown(shown).described.shape == shape


def test_without_a_run_the_declaration_counts() -> None:
    """A mapping's names count more: requests show whether they are right."""
    some = outputs(LABEL, SCORE, UNDECLARED)
    assert names(with_batch(some, None, 2, named=False)) == ["score", "undeclared"]
    assert names(with_batch(some, None, 2, named=True)) == ["label", "score", "undeclared"]
    with pytest.raises(ArtifactError, match=r"output 'label' has shape \[1\]"):
        with_batch(outputs(LABEL), None, 2, named=False)


def test_floating_point_inputs_take_null_without_a_mapping() -> None:
    """As the derived schema says."""
    specs = read_inputs([Node("x", "tensor(double)", ["N"]), Node("n", "tensor(int8)", ["N"])], None)
    assert [(spec.name, spec.takes_null) for spec in specs] == [("x", True), ("n", False)]


IMAGE = Node("image", "tensor(float)", [1, 3, "height", "width"])
STATE = Node("state", "tensor(float)", [2, 1, 64])
RATE = Node("rate", "tensor(int64)", [])


def test_what_has_no_batch_is_the_value_itself() -> None:
    """A first dimension of 1 or of open size is the batch; others and scalars belong to the value."""
    specs = read_inputs([IMAGE, STATE, RATE], None)
    assert [(spec.shape, spec.has_batch) for spec in specs] == [
        ((3, None, None), True),
        ((2, 1, 64), False),
        ((), False),
    ]
    assert [takes_one(inputs) for inputs in ([IMAGE], [BATCHED, STATE], [RATE], [BATCHED, RATE])] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("shape", [[8], [3, "height", "width"]])
def test_another_fixed_batch_is_refused(shape: list[Any]) -> None:
    """With what to export: nobody can tell what its dimensions are."""
    with pytest.raises(
        ArtifactError, match="neither open nor 1; export the model with a dynamic first dimension"
    ):
        read_inputs([Node("x", "tensor(float)", shape)], None)


def test_outputs_of_a_model_for_one_example() -> None:
    """The batch is a first dimension of 1, or one that an input has; what has no other is the whole value."""
    boxes, classes = Node("boxes", "tensor(float)", ["found", 4]), Node("classes", "tensor(float)", [1, 1000])
    loss, kept = Node("loss", "tensor(float)", []), Node("kept", "tensor(float)", ["N", 2])
    nodes = [boxes, classes, STATE, loss, kept, MAPS]
    read = read_outputs(nodes, [], [IMAGE, STATE, Node("more", "tensor(float)", ["N"])])
    assert [(each.described.shape, each.has_batch) for each in read] == [
        ((None, 4), False),
        ((1000,), True),
        ((2, 1, 64), False),
        (None, True),
        ((2,), True),
        ((), True),
    ]
    shapes = {
        "boxes": [5, 4],
        "classes": [1, 1000],
        "state": [2, 1, 64],
        "loss": [],
        "kept": [1, 2],
        "maps": [1],
    }
    shown = with_batch(read, shapes, 1, named=False)
    assert (shown[3].described.shape, shown[3].has_batch) == ((), False)
    assert read_values("boxes", np.zeros((5, 4)), 1, has_batch=False)[0] == [[[0.0] * 4] * 5]
    assert read_values("loss", np.array(0.5), 1, has_batch=False)[0] == [0.5]
    assert read_values("loss", np.array(np.nan), 1, has_batch=False)[1].keys() == {0}


def test_an_optional_input_may_be_missing() -> None:
    """The model says so by its type."""
    (spec,) = read_inputs([Node("x", "optional(tensor(float))", ["N"])], None)
    assert (spec.optional, spec.dtype) == (True, np.dtype("float32"))


def test_a_map_for_each_example() -> None:
    """Keys are text, as JSON has them; a number that JSON has not fails its own row."""
    values, errors = read_values("p", [{0: 0.5, 7: 0.5}, {0: np.nan, 7: 1.0}, {0: -np.inf, 7: np.inf}], 3)
    assert values[0] == {"0": 0.5, "7": 0.5}
    assert errors.keys() == {1, 2}
    with pytest.raises(BackendFailedError, match="'p' has 1 maps for 2 examples"):
        read_values("p", [{"a": 1.0}], 2)

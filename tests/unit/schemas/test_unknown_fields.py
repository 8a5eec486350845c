"""schemas/unknown_fields.py: misspelt fields of a registration."""

from typing import Any

import pytest

from schemas.mapping import TensorMapping
from schemas.models import ModelSpec, Registration
from schemas.unknown_fields import unknown_fields
from tests.support.promotions.events import spec


def registration(**fields: Any) -> dict[str, Any]:
    return {"model_name": "m", "model": spec("v1", **fields)}


def test_all_fields_of_a_version_are_known() -> None:
    """Also the keys that its author chooses: of schemas, metrics and tensors."""
    whole = ModelSpec.model_validate(
        spec(
            "v1",
            input_schema={"properties": {"fallbak": {"type": "number"}}},
            metrics={"fallbak": 1},
            mapping={"inputs": {"fallbak": {"datatype": "FP32"}}, "outputs": {"fallbak": "y"}},
            example={"input": {"fallbak": 1}},
        )
    )
    document = {"model_name": "m", "model": whole.model_dump(mode="json")}
    assert unknown_fields(Registration, document) == []


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (registration(fallbak="production"), "model.fallbak is not a field; did you mean fallback?"),
        (
            registration(server={"maxcalls": 3}),
            "model.server.maxcalls is not a field; did you mean max_calls?",
        ),
        (
            registration(mapping={"inputs": {"a.b": {"typ": "FP32"}}}),
            f"model.mapping.inputs.a.b.typ is not a field; the fields are {', '.join(TensorMapping.model_fields)}",
        ),
        (registration() | {"reason": ""}, "reason is not a field; the fields are model_name, model"),
    ],
)
def test_a_field_that_is_none_is_told_with_the_nearest(document: Any, problem: str) -> None:
    """With its path; without a near one, all fields are listed."""
    assert unknown_fields(Registration, document) == [problem]


@pytest.mark.parametrize(
    "document", [None, [], {}, {"model": None}, {"model": [1]}, {"model": {"server": 3}}]
)
def test_values_of_wrong_types_are_left_to_the_model(document: Any) -> None:
    """Validation tells what is wrong with them."""
    assert unknown_fields(Registration, document) == []

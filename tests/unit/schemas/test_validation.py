"""schemas/validation.py: one form of pydantic's findings, without the value that is wrong."""

from typing import Annotated

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError, field_validator

from schemas.errors import PromotionRejectedError
from schemas.events import JsonObject, PredictRequest
from schemas.validation import MAX_PROBLEMS, error_details, json_pointer, one_line, problems
from streams.promotions.events import make_event

SECRET = "hunter2-correct-horse"


class Part(BaseModel):
    size: Annotated[int, Field(gt=0)]
    name: str = ""

    @field_validator("name")
    @classmethod
    def _is_short(cls, name: str) -> str:
        if len(name) > 3:
            raise ValueError("write 3 characters at most")
        return name


class Whole(BaseModel):
    parts: dict[str, list[Part]]


def failure(value: object) -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        Whole.model_validate(value)
    return refused.value


def test_details_point_at_the_wrong_value_with_escaped_keys() -> None:
    """A key may hold the characters that a JSON pointer escapes."""
    error = failure({"parts": {"a/b~c": [{"size": 1}, {"size": 0, "name": SECRET}]}})
    assert [(detail.path, detail.message) for detail in error_details(problems(error))] == [
        ("/parts/a~1b~0c/1/size", "Input should be greater than 0"),
        ("/parts/a~1b~0c/1/name", "write 3 characters at most"),
    ]


def test_one_line_names_each_place_and_quotes_no_input() -> None:
    error = failure({"parts": {"x": [{"size": SECRET, "name": SECRET}]}})
    line = one_line(error, root="document")
    assert line.startswith("parts.x.0.size: ")
    assert line.endswith("; parts.x.0.name: write 3 characters at most")
    assert SECRET not in line
    assert one_line(error, root="document", max_problems=1) == line.split("; ", maxsplit=1)[0]
    assert one_line(failure(3), root="document").startswith("document: ")


@given(st.lists(st.text(alphabet="a~/01\u00e9"), min_size=1, max_size=4))
def test_pointers_are_those_of_another_implementation(keys: list[str]) -> None:
    """jsonschema-rs names the place of a wrong value by the same JSON pointer."""
    schema: JsonObject = {"const": "expected"}
    value: object = "wrong"
    for key in reversed(keys):
        schema, value = {"properties": {key: schema}}, {key: value}
    report = jsonschema_rs.validator_for(schema).evaluate(value).list()
    (place,) = (detail["instanceLocation"] for detail in report["details"] if "errors" in detail)
    assert place == json_pointer(keys)


def test_more_problems_than_anybody_reads_are_counted() -> None:
    """To name each would take pydantic a second for a record of a megabyte."""
    (problem,) = problems(failure({"parts": {str(at): 1 for at in range(MAX_PROBLEMS + 1)}}))
    assert problem == ((), f"{MAX_PROBLEMS + 1} values are wrong")
    assert len(problems(failure({"parts": {str(at): 1 for at in range(MAX_PROBLEMS)}}))) == MAX_PROBLEMS


def test_a_larger_object_is_refused_before_its_entries_are_read() -> None:
    """With one problem, however many of them are wrong."""
    with pytest.raises(PromotionRejectedError, match=r"weights: it has 1001 entries; at most 1000 are taken"):
        make_event(
            {
                "event_id": "e",
                "action": "split",
                "model_name": "m",
                "weights": dict.fromkeys(map(str, range(1001))),
            }
        )


@pytest.mark.parametrize("value", [42, 4.5])
def test_a_number_in_the_place_of_text_says_how_to_send_it(value: float) -> None:
    """A user's id is text, also when it looks like a number. The number itself is not quoted."""
    request = {"request_id": "r", "model_name": "m", "user_id": value, "input": {}}
    with pytest.raises(ValidationError) as refused:
        PredictRequest.model_validate(request)
    assert one_line(refused.value, root="request") == (
        'user_id: a number is not text; send it in quotes, like "42"'
    )

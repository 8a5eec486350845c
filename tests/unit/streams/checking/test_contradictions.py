"""streams/checking/contradictions.py: what a schema accepts and its model does not."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import JsonObject
from schemas.json_schema import compile_schema
from schemas.mapping import Datatype, Mapping
from streams.checking.contradictions import contradictions, left_out, misfits, misnamed
from streams.checking.samples import sample_of
from workers.backends.description import DescribedTensor, ModelDescription

SHAPES = st.lists(st.integers(1, 3) | st.none(), max_size=3).map(tuple)
TENSORS = st.builds(
    DescribedTensor, st.sampled_from("abc"), st.just("t"), st.sampled_from(list(Datatype)), SHAPES
)


@given(st.lists(TENSORS, min_size=1, max_size=3, unique_by=lambda tensor: tensor.key))
def test_every_model_has_a_sample(tensors: list[DescribedTensor]) -> None:
    """The schema of tensors is simple, and does not contradict itself."""
    schema = ModelDescription(tensors, []).input_schema()
    sample = sample_of(schema)
    assert sample.keys() == {tensor.key for tensor in tensors}
    assert contradictions(schema, compile_schema(schema), sample) == []


NEEDED: JsonObject = ModelDescription(
    [
        DescribedTensor("user", "user", Datatype.INT32, ()),
        DescribedTensor("history", "history", Datatype.FP32, (2,)),
        DescribedTensor("name", "name", Datatype.BYTES, ()),
    ],
    [],
).input_schema()
BASE = {"user": 3, "history": [0.5, 1], "name": "ann"}


def found(input_schema: JsonObject, base: JsonObject | None = None) -> list[str]:
    return contradictions(NEEDED, compile_schema(input_schema), base or BASE)


def test_a_schema_that_is_as_narrow_contradicts_nothing() -> None:
    """It may be narrower, written in another form, and have more properties."""
    assert found(NEEDED) == []
    narrower = NEEDED["properties"] | {"user": {"enum": [1, 2, 3]}, "more": {"type": "null"}}
    assert found({"allOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": NEEDED | {"properties": narrower}}}) == []


def test_each_key_with_wrongly_accepted_values_gets_a_sentence() -> None:
    """Missing keys, other types, fractions, values out of range, other lengths."""
    missing, user, history, name = found(
        {
            "required": ["history", "name"],
            "properties": {
                "user": {"type": ["number", "null"]},
                "history": {"type": "array", "items": {"type": "number"}},
                "name": {},
            },
        }
    )
    assert missing == "input_schema does not require 'user', which the model needs; add it to `required`"
    assert user == (
        "input_schema lets through null, fractions, integers below -2147483648, integers above 2147483647 at "
        "'user', which the model cannot take; such requests are answered BACKEND_ERROR"
    )
    assert history.startswith("input_schema lets through a list of another length at 'history',")
    assert name.startswith("input_schema lets through null, a list, a number at 'name',")


def test_64_bit_integers_need_no_bounds() -> None:
    """A plain `integer` is the usual schema of INT64."""
    needed = ModelDescription([DescribedTensor("x", "x", Datatype.INT64, ())], []).input_schema()
    accepts = compile_schema({"required": ["x"], "properties": {"x": {"type": "integer"}}})
    assert contradictions(needed, accepts, {"x": 1}) == []
    unsigned = ModelDescription([DescribedTensor("x", "x", Datatype.UINT64, ())], []).input_schema()
    assert "integers below 0" in contradictions(unsigned, accepts, {"x": 1})[0]


def test_a_base_that_fits_only_one_schema_finds_nothing() -> None:
    """A change of an input that is wrong already proves nothing."""
    assert found({}, {"user": "u"}) == []
    assert contradictions(NEEDED, compile_schema({"maxProperties": 0}), BASE) == []
    assert contradictions(NEEDED, compile_schema({}), None) == []


def test_other_types_are_found_without_an_input() -> None:
    """Only types are compared: a bound does not contradict a type."""
    schema = compile_schema(
        {
            "$ref": "#/$defs/i",
            "$defs": {"i": {"properties": {"user": {"type": "string"}}}},
            "minProperties": 9,
        }
    )
    (sentence,) = misfits("input_schema", NEEDED, schema)
    assert sentence.startswith(
        "input_schema does not fit what the model declares, at /user: 0 is not of type"
    )
    assert (
        misfits("output_schema", {"type": "number"}, compile_schema({"type": "number", "minimum": 5})) == []
    )
    assert "at its root" in misfits("output_schema", {"type": "number"}, compile_schema({"type": "array"}))[0]
    assert misfits("output_schema", {}, compile_schema({"type": "array"})) == []


def test_null_contradicts_nothing_where_it_is_a_missing_value() -> None:
    """What else the schema lets through does."""
    needed = ModelDescription(
        [DescribedTensor("x", "x", Datatype.FP32, (2,), takes_null=True)], []
    ).input_schema()
    base = {"x": [0.5, None]}
    assert contradictions(needed, compile_schema(needed), base) == []
    (sentence,) = contradictions(needed, compile_schema({"required": ["x"]}), {"x": [0.5, 1]})
    assert sentence.startswith(
        "input_schema lets through null, a value that is no list, a list of another length"
    )
    assert "a list in the list, a string in the list" in sentence
    assert "null in the list" not in sentence


def test_an_output_that_is_left_out_is_told() -> None:
    """With how to choose."""
    (sentence,) = left_out(ModelDescription([], [], ["version"]))
    assert sentence.startswith("output 'version' has no value for each example")
    assert "mapping.outputs" in sentence


def mapping(**tensors: JsonObject) -> Mapping:
    return Mapping.model_validate({"inputs": tensors})


def test_a_mapping_is_compared_with_what_the_server_declares() -> None:
    """By name, type and shape; a mapping may be narrower where the model leaves a size open."""
    described = ModelDescription(
        [
            DescribedTensor("tokens", "in_0", Datatype.INT64, (None,)),
            DescribedTensor("age", "age", Datatype.FP32, None),
        ],
        [],
    )
    tokens = {"tensor": "in_0", "datatype": "INT64", "shape": [16]}
    age = {"datatype": "FP32", "shape": [1]}
    assert misnamed(mapping(tokens=tokens, age=age), described) == []
    assert misnamed(mapping(tokens=tokens | {"datatype": "INT32"}, ages=age), described) == [
        "the mapping of 'tokens' is INT32, and the model declares INT64",
        "the mapping leaves out the input 'age' that the model declares",
        "the mapping of 'ages' names 'ages', which the model does not declare",
    ]
    assert misnamed(mapping(tokens=tokens | {"shape": []}, age=age), described) == [
        "the mapping of 'tokens' has shape [], and the model declares [-1] for one example"
    ]

"""PURE: checks of a version at its registration, beyond the schema of its event.

A version never changes and may be promoted at any time. So a version that cannot work is refused here, with a message
for whoever registers it, before its users find out.
"""

from schemas.errors import PromotionRejectedError, RejectionCode
from schemas.events import JsonObject
from schemas.json_schema import Validator, compile_schema, details
from schemas.mapping import Mapping, schema_of
from schemas.models import Example, ModelSpec, RequestForm, cache_seconds, is_unpinned, stored_form
from schemas.schema_limits import check_limits, subschemas

MAX_DETAILS = 3
# Those of JSON Schema 2020-12, section 7.3 of its validation vocabulary.
FORMATS = (
    *(
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "idn-email",
        "hostname",
        "idn-hostname",
        "ipv4",
        "ipv6",
    ),
    *("uri", "uri-reference", "iri", "iri-reference", "uuid", "uri-template"),
    *("json-pointer", "relative-json-pointer", "regex"),
)
JSON_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def check_version(spec: ModelSpec) -> None:
    """Raises PromotionRejectedError (INVALID_EVENT) for a version that cannot answer."""
    accepts = _compiled("input_schema", spec.input_schema)
    promises = _compiled("output_schema", spec.output_schema)
    if spec.mapping is not None:
        _check_mapping(spec.mapping)
    if spec.server.form is RequestForm.VALUE and spec.mapping is not None and len(spec.mapping.inputs) > 1:
        raise _invalid("server.form value sends one value alone; map one input, or choose row or column")
    if spec.example is not None:
        _check_example(spec.example, spec.mapping, accepts, promises)


def warnings_on(spec: ModelSpec) -> list[str]:
    """What the registry takes, and what may surprise whoever registers it."""
    if not is_unpinned(spec):
        return []
    cached = cache_seconds(spec)
    return [
        "the server answers by its newest version: predictions change when it loads another, without a promotion; name "
        "the version by server.version"
        + (
            f" (cached predictions stay for up to {cached} s then)"
            if cached
            else "; until then nothing is cached"
        )
    ]


def same_content(registered: ModelSpec, sent: ModelSpec) -> bool:
    """Whether two versions are stored as the same JSON: 1.0 and 1 are one number, and true is none."""
    return _same(stored_form(registered).model_dump(mode="json"), stored_form(sent).model_dump(mode="json"))


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _compiled(name: str, schema: JsonObject) -> Validator:
    dialect = schema.get("$schema", JSON_SCHEMA_DIALECT)
    if dialect != JSON_SCHEMA_DIALECT:
        raise _invalid(f"{name} is written for {dialect}; write it for {JSON_SCHEMA_DIALECT}")
    try:
        compiled = compile_schema(schema)
    except ValueError as error:
        raise _invalid(f"{name} is not a JSON Schema 2020-12: {error}") from None
    try:
        check_limits(schema)
    except ValueError as error:
        raise _invalid(f"{name} may take too long to validate: {error}") from None
    for part in subschemas(schema):
        found = part.get("format")
        if found is not None and found not in FORMATS:
            raise _invalid(
                f"{name} has the format {found!r}, which JSON Schema 2020-12 does not have and nothing would check; "
                f"correct or remove it (formats are {', '.join(FORMATS)})"
            )
    return compiled


def _check_mapping(mapping: Mapping) -> None:
    tensors = [tensor.tensor or key for key, tensor in mapping.inputs.items()]
    outputs = list(mapping.outputs.values())
    for kind, names in (("inputs", tensors), ("outputs", outputs)):
        if len(set(names)) < len(names):
            raise _invalid(f"mapping.{kind} name one tensor twice; give each its own")


def _check_example(
    example: Example, mapping: Mapping | None, accepts: Validator, promises: Validator
) -> None:
    _check("example.input does not match input_schema", accepts, example.input)
    if mapping is not None:
        _check("example.input does not fit the mapping", compile_schema(schema_of(mapping)), example.input)
    if example.predictions is not None:
        _check("example.predictions do not match output_schema", promises, example.predictions)


def _check(problem: str, validator: Validator, value: object) -> None:
    if not validator.is_valid(value):
        found = [f"{detail.path or 'it'}: {detail.message}" for detail in details(validator, value)]
        raise _invalid(f"{problem}: {'; '.join(found[:MAX_DETAILS])}")


def _invalid(message: str) -> PromotionRejectedError:
    return PromotionRejectedError(RejectionCode.INVALID_EVENT, message)

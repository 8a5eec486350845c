"""The fields of wire models and the headers of messages as Markdown: for docs/reference/."""

from collections.abc import Mapping
from typing import Any

from schemas.events import JsonObject, PredictError, PredictRequest, PredictResponse, WireModel
from schemas.mapping import Mapping as TensorsMapping
from schemas.mapping import TensorMapping
from schemas.models import Example, ModelSpec, ServerOptions
from schemas.publish import DEAD_LETTER_HEADERS, RESPONSE_HEADERS

_HEAD = "| Field | Type | Default | Meaning |\n| --- | --- | --- | --- |\n"
# Types that a reader knows by another name than the schema's.
_NAMED_TYPES = {
    "input_schema": "JSON Schema",
    "output_schema": "JSON Schema",
    "artifact_sha256": "64 hexadecimal digits",
}


def version_fields() -> str:
    """The fields of a registration's `model`, and of the objects in it."""
    parts: dict[str, type[WireModel]] = {
        "The version: `model`": ModelSpec,
        "How a model server is called: `model.server`": ServerOptions,
        "Declared tensors: `model.mapping`": TensorsMapping,
        "One declared input: `model.mapping.inputs.KEY`": TensorMapping,
        "The example: `model.example`": Example,
    }
    return "\n".join(f"## {title}\n\n{field_table(model)}" for title, model in parts.items())


def request_fields() -> str:
    return field_table(PredictRequest)


def response_fields() -> str:
    return f"{field_table(PredictResponse)}\n`error` has these fields:\n\n{field_table(PredictError)}"


def response_headers() -> str:
    return _headers(RESPONSE_HEADERS)


def dead_letter_headers() -> str:
    return _headers(DEAD_LETTER_HEADERS)


def field_table(model: type[WireModel]) -> str:
    """A row for each field. Raises AssertionError for a field without a description."""
    schema = model.model_json_schema()
    needed, definitions = schema.get("required", ()), schema.get("$defs", {})
    rows = []
    for name, field in schema["properties"].items():
        text = field.get("description", "")
        assert text.endswith((".", ")")), f"{model.__name__}.{name} has no description that is a sentence"
        default = "required" if name in needed else _default(field)
        kind = _NAMED_TYPES.get(name) or _type(field, definitions)
        rows.append(f"| `{name}` | {kind} | {default} | {text} |".replace("\n", " "))
    return _HEAD + "\n".join(rows) + "\n"


def _default(field: JsonObject) -> str:
    value = field.get("default")
    if value in (None, "", [], {}) or isinstance(value, dict):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(field: JsonObject, definitions: Mapping[str, Any]) -> str:
    alternatives = [each for each in field.get("anyOf", [field]) if each.get("type") != "null"]
    if len(alternatives) != 1:
        return "any JSON"
    (schema,) = alternatives
    if "$ref" in schema:
        schema = definitions[schema["$ref"].removeprefix("#/$defs/")]
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    match schema.get("type"):
        case "integer" | "number" as kind:
            return f"{kind}{_range(schema)}"
        case "string":
            longest = schema.get("maxLength")
            return f"text up to {longest}" if longest else "text"
        case "array":
            return "list"
        case None:
            return "any JSON"
        case kind:
            return "true or false" if kind == "boolean" else str(kind)


def _range(schema: JsonObject) -> str:
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if highest is None or highest >= 2**62:
        return "" if lowest is None else f" from {lowest}"
    return f" {lowest} to {highest}"


def _headers(headers: Mapping[str, str]) -> str:
    rows = (f"| `{name}` | {text} |\n" for name, text in headers.items())
    return "| Header | Content |\n| --- | --- |\n" + "".join(rows)

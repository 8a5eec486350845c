"""PURE. The reference of the settings, read from their fields: for `headrace config` and docs/reference/."""

from dataclasses import dataclass
from typing import Any

from schemas.events import JsonObject
from streams.config.settings import SECTIONS, Settings, variable
from streams.config.sources import masked


@dataclass(frozen=True, slots=True)
class SettingReference:
    """What is known of a setting without its value.

    `default` has its form in JSON, masked as `headrace config` masks values; `unit` is "" for what has none.
    """

    name: str
    variable: str
    section: str
    type: str
    unit: str
    default: Any
    secret: bool
    description: str


def settings_reference() -> list[SettingReference]:
    """All settings, section by section."""
    properties = Settings.model_json_schema()["properties"]
    return [
        SettingReference(
            name=name,
            variable=variable(name),
            section=section.title,
            type=_type(_alternatives(properties[name])),
            unit=properties[name].get("unit", ""),
            default=masked(name, field.default),
            secret=any(part.get("format") == "password" for part in _alternatives(properties[name])),
            description=field.description or "",
        )
        for section in SECTIONS
        for name, field in section.model_fields.items()
    ]


def _alternatives(schema: JsonObject) -> list[JsonObject]:
    """The JSON Schemas of a setting's values, without that of null, which means unset."""
    return [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]


def _type(alternatives: list[JsonObject]) -> str:
    (schema,) = alternatives
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "string":
        return "text"
    if "maximum" in schema:
        return f"{schema['type']} from {schema['minimum']} to {schema['maximum']}"
    return f"{schema['type']} > {schema['exclusiveMinimum']}"

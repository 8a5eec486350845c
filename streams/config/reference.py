"""PURE. The reference of the settings, read from their fields: for `headrace config` and its page in docs/."""

from collections.abc import Iterable
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


def settings_tables(references: Iterable[SettingReference] = ()) -> str:
    """The settings as Markdown, a table for each section; without an argument, all settings."""
    lines: list[str] = []
    section = ""
    for reference in references or settings_reference():
        if reference.section != section:
            section = reference.section
            lines += [
                f"\n## {section}\n",
                "| Setting | Type | Default | What it does |",
                "| --- | --- | --- | --- |",
            ]
        cells = (
            f"`{reference.variable}`",
            ", ".join(filter(None, (reference.type, reference.unit, "secret" if reference.secret else ""))),
            "" if reference.default in (None, "") else f"`{_text(reference.default)}`",
            reference.description,
        )
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines).lstrip() + "\n"


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


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""The settings as Markdown: for docs/reference/settings.md."""

from collections.abc import Iterable
from typing import Any

from streams.config.reference import SettingReference, settings_reference


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


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

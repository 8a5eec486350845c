"""The verbs of `headrace` as Markdown, read from typer: for docs/reference/cli.md."""

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from streams.cli.main import VERBS, app


def cli_sections() -> str:
    """Each verb with its help, arguments and options, below the titles of `headrace --help`."""
    root = get_command(app)
    context = root.make_context("headrace", [], resilient_parsing=True)
    return "\n".join(_commands(root, context)).lstrip() + "\n"


def _commands(group: Any, context: Any) -> Iterator[str]:
    title = ""
    commands = list(group.commands.items())
    if context.parent is None:
        # typer lists groups of verbs, such as `alerts`, after all others.
        titles = list(VERBS)
        commands.sort(key=lambda each: titles.index(each[1].rich_help_panel))
    for name, command in commands:
        inner = command.make_context(name, [], parent=context, resilient_parsing=True)
        if context.parent is None and command.rich_help_panel != title:
            title = command.rich_help_panel
            yield f"\n## {title}"
        yield f"\n### `{inner.command_path}`\n"
        yield f"```text\n{' '.join([inner.command_path, *command.collect_usage_pieces(inner)])}\n```\n"
        yield command.help.strip()
        yield from _parameters(command, inner)
        if hasattr(command, "commands"):
            yield from _commands(command, inner)


def _parameters(command: Any, context: Any) -> Iterator[str]:
    records = [
        each.get_help_record(context) for each in command.get_params(context) if "--help" not in each.opts
    ]
    rows = [(names, text) for names, text in filter(None, records)]
    if rows:
        yield "\n| Argument or option | What it does |\n| --- | --- |"
        for names, text in rows:
            yield f"| `{names}` | {text.strip().replace('|', '&#124;')} |"

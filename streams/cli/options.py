"""Options that several verbs share, and the settings that follow from them.

A verb that needs settings takes `env_file: EnvFile = None` and `flags: SetFlags = None`, and calls
`command_settings(env_file, flags)`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from streams.config.settings import Settings
    from streams.config.sources import LoadedSettings

EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        metavar="FILE",
        help="File of NAME=value lines; by default $HEADRACE_ENV_FILE, else data/env if it exists.",
        show_default=False,
    ),
]
SetFlags = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of `headrace config`, stronger than all other sources; repeatable. Not for "
        "secrets: other users of this machine can read command lines.",
        show_default=False,
    ),
]
Partitions = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="COUNT",
        help="Partitions of each topic with traffic; existing topics that have fewer get more. By default existing "
        "topics keep theirs, and new ones get as many as the requests have, or 4.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def command_settings(env_file: Path | None, flags: list[str] | None) -> "Settings":
    """The settings of this command; as `loaded_settings`."""
    return loaded_settings(env_file, flags).settings


def loaded_settings(env_file: Path | None, flags: list[str] | None) -> "LoadedSettings":
    """The settings of this command with their origins; prints a warning for each unknown name.

    Raises SetupError with one line for each wrong value.
    """
    from streams.config.sources import load_settings

    loaded = load_settings(env_file, flags or [])
    for warning in loaded.warnings:
        print(f"headrace: {warning}", file=sys.stderr)
    return loaded

"""`headrace config`: every setting, its value, its origin and its description."""

from streams.cli.options import AsJson, EnvFile, SetFlags, loaded_settings


def config(*, env_file: EnvFile = None, flags: SetFlags = None, as_json: AsJson = False) -> None:
    """Show every setting with its value, origin and description.

    The value of --set is stronger than the environment, the environment is stronger than the env file, and the
    env file is stronger than the default. Secrets are masked.
    With --json: a list of {"name", "section", "value", "origin", "default", "type", "unit", "secret",
    "description"}.
    """
    from dataclasses import asdict

    from streams.cli.output import console, print_json
    from streams.config.reference import settings_reference
    from streams.config.sources import masked

    loaded = loaded_settings(env_file, flags)
    rows = [
        {
            "name": setting.variable,
            "section": setting.section,
            "value": masked(setting.name, getattr(loaded.settings, setting.name)),
            "origin": loaded.origins[setting.name],
        }
        | {key: value for key, value in asdict(setting).items() if key not in ("name", "variable", "section")}
        for setting in settings_reference()
    ]
    if as_json:
        print_json(rows)
        return
    from rich.padding import Padding
    from rich.text import Text

    screen = console()
    width = max(len(row["name"]) for row in rows)
    section = ""
    for row in rows:
        if row["section"] != section:
            screen.print(Text(f"\n{row['section']}" if section else row["section"], style="bold"))
            section = row["section"]
        value = "" if row["value"] is None else str(row["value"])
        # One line for each setting, however narrow the terminal, so that a search finds all of it.
        line = f"{row['name']:<{width}}  {value}{'  ' if value else ''}{row['origin']}"
        screen.print(Text(line, style="dim" if row["origin"] == "default" else ""), soft_wrap=True)
        unit = f" ({row['unit']})" if row["unit"] else ""
        screen.print(Padding(Text(f"{row['description']}{unit}", style="dim"), (0, 0, 0, 4), expand=False))

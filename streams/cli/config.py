"""`headrace config`: every setting, its value and where it comes from."""

from streams.cli.options import AsJson, EnvFile, SetFlags, loaded_settings


def config(*, env_file: EnvFile = None, flags: SetFlags = None, as_json: AsJson = False) -> None:
    """Show every setting with its value and origin.

    A setting comes from --set, else from the environment, else from the env file, else it has its default.
    Passwords are masked.
    With --json: a list of {"name", "value", "origin", "description"}.
    """
    from streams.cli.output import console, print_json
    from streams.config.settings import Settings
    from streams.config.sources import VARIABLES, shown

    loaded = loaded_settings(env_file, flags)
    rows = [
        {
            "name": variable,
            "value": shown(name, getattr(loaded.settings, name)),
            "origin": loaded.origins[name],
            "description": Settings.model_fields[name].description or "",
        }
        for variable, name in VARIABLES.items()
    ]
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("origin", overflow="fold")
    for row in rows:
        value = "" if row["value"] is None else str(row["value"])
        style = "dim" if row["origin"] == "default" else ""
        table.add_row(row["name"], value, row["origin"], style=style)
    console().print(table)

"""`headrace schemas`: write the wire contract as files."""

from pathlib import Path
from typing import Annotated

import typer


def schemas(
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder to write into; created if missing.")
    ] = Path("docs"),
) -> None:
    """Write the wire contract as JSON Schema and AsyncAPI.

    OUT/asyncapi.json is AsyncAPI 3.0, OUT/schemas/NAME.json are JSON Schema 2020-12.
    """
    import json

    from schemas.errors import SetupError
    from schemas.publish import asyncapi, json_schemas

    documents = {out / "asyncapi.json": asyncapi()} | {
        out / "schemas" / f"{name}.json": schema for name, schema in json_schemas().items()
    }
    try:
        (out / "schemas").mkdir(parents=True, exist_ok=True)
        for path, document in documents.items():
            path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{error.filename} cannot be written: {error.strerror}") from None
    typer.echo(f"{len(documents)} documents in {out}")

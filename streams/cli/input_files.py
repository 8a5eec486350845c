"""The file that describes a version as it is registered."""

import sys
from pathlib import Path
from typing import Any

import typer


def read_registration(file: Path) -> dict[str, Any]:
    """The fields `model_name` and `model` of an event, as the file has them; "-" is standard input.

    Raises PromotionRejectedError for what is no JSON object.
    """
    from schemas.errors import MalformedRecordError, PromotionRejectedError, RejectionCode
    from schemas.wire import read_object

    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        document = read_object(content)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from None
    except MalformedRecordError as error:
        raise PromotionRejectedError(RejectionCode.INVALID_EVENT, f"{file}: {error}") from None
    return {"model_name": document.get("model_name"), "model": document.get("model")}

"""Files that a verb reads: `-f FILE`, or "-" for standard input."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

OptionalInputFile = Annotated[
    Path | None,
    typer.Option(
        "-f",
        "--file",
        metavar="FILE",
        allow_dash=True,
        help='Registration file; "-" is standard input.',
        show_default=False,
    ),
]
MAX_UNKNOWN_FIELDS = 5

InputFile = Annotated[
    Path,
    typer.Option("-f", "--file", metavar="FILE", allow_dash=True, help='JSON file; "-" is standard input.'),
]


def read_input(file: Path) -> bytes:
    """The content of a file, or of standard input for "-". Raises BadParameter when the file cannot be read."""
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from None


def read_registration(file: Path) -> dict[str, Any]:
    """The fields `model_name` and `model` of a promotion event, unchecked; None where the file has none.

    Raises PromotionRejectedError when the content is not a JSON object or has a field that a registration does not
    have, BadParameter as `read_input` does.
    """
    from schemas.errors import MalformedRecordError, PromotionRejectedError, RejectionCode
    from schemas.models import Registration
    from schemas.unknown_fields import unknown_fields
    from schemas.wire import read_object

    try:
        document = read_object(read_input(file))
    except MalformedRecordError as error:
        raise PromotionRejectedError(RejectionCode.INVALID_EVENT, f"{file}: {error}") from None
    if unknown := unknown_fields(Registration, document):
        raise PromotionRejectedError(
            RejectionCode.INVALID_EVENT, f"{file}: {'; '.join(unknown[:MAX_UNKNOWN_FIELDS])}"
        )
    return {"model_name": document.get("model_name"), "model": document.get("model")}

"""The error codes of responses and dead letters as Markdown, read from schemas/errors.py."""

from collections.abc import Iterator

from schemas.errors import AnswerError, MalformedRecordError
from schemas.events import ErrorCode


def response_errors() -> str:
    """A table of all codes in the order of the wire contract; the text is the docstring of the code's class."""
    classes = {each.code: each for each in _descendants(AnswerError) if "code" in vars(each)}
    rows = [
        (code.value, "yes", "yes" if classes[code].dead_letter else "no", _text(classes[code]))
        for code in ErrorCode
    ]
    rows.append((MalformedRecordError.code, "no", "yes", _text(MalformedRecordError)))
    head = "| Code | Response | Dead letter | When |\n| --- | --- | --- | --- |\n"
    return head + "".join(f"| `{code}` | {' | '.join(cells)} |\n" for code, *cells in rows)


def _descendants(base: type[AnswerError]) -> Iterator[type[AnswerError]]:
    for each in base.__subclasses__():
        yield each
        yield from _descendants(each)


def _text(error: type[Exception]) -> str:
    return " ".join((error.__doc__ or "").split())

"""The error codes of responses, dead letters and promotion results as Markdown, read from schemas/errors.py."""

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise

from schemas.errors import (
    AbandonedRecordError,
    AnswerError,
    MalformedRecordError,
    RejectionCode,
    SkippedRecordError,
    UnreadableBatchError,
)
from schemas.events import ErrorCode


def response_errors() -> str:
    """A table of all codes in the order of the wire contract; the text is the docstring of the code's class."""
    classes = {each.code: each for each in _descendants(AnswerError) if "code" in vars(each)}
    rows = [
        (code.value, "yes", "yes" if classes[code].dead_letter else "no", _text(classes[code]))
        for code in ErrorCode
    ]
    rows += [
        (error.code, "no", "yes", _text(error))
        for error in (MalformedRecordError, UnreadableBatchError, AbandonedRecordError, SkippedRecordError)
    ]
    head = "| Code | Response | Dead letter | When |\n| --- | --- | --- | --- |\n"
    return head + "".join(f"| `{code}` | {' | '.join(cells)} |\n" for code, *cells in rows)


def promotion_rejections() -> str:
    """A table of all codes of rejected promotions; the text is the string below the code in its class."""
    (declared,) = ast.parse(inspect.getsource(RejectionCode)).body
    assert isinstance(declared, ast.ClassDef)
    meanings: dict[str, str] = {}
    for code, text in pairwise(declared.body):
        match code, text:
            case ast.Assign(value=ast.Constant(value=str(name))), ast.Expr(ast.Constant(value=str(meaning))):
                meanings[name] = meaning
    return "| code | when |\n|---|---|\n" + "".join(
        f"| `{code.value}` | {meanings[code.value]} |\n" for code in RejectionCode
    )


def _descendants(base: type[AnswerError]) -> Iterator[type[AnswerError]]:
    for each in base.__subclasses__():
        yield each
        yield from _descendants(each)


def _text(error: type[Exception]) -> str:
    return " ".join((error.__doc__ or "").split())

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

# Whose fault it is, and whether the same record may succeed later. A code without an entry here fails `make docs`.
_REACTIONS = {
    "INVALID_REQUEST": ("caller", "no: correct the request"),
    "INVALID_INPUT": ("caller", "no: correct the input; after a promotion another schema may hold"),
    "UNKNOWN_MODEL": ("caller, or operator", "after the model is registered"),
    "NO_ACTIVE_VERSION": ("operator", "after a version is promoted"),
    "STALE_ROUTE": ("operator: PostgreSQL", "yes, with growing pauses"),
    "DEADLINE_EXCEEDED": ("caller, or load", "yes, with a new or longer deadline"),
    "OVERLOADED": ("load", "yes, with growing pauses"),
    "BACKEND_UNAVAILABLE": (
        "model server",
        "yes, with growing pauses; the worker has tried within its budget",
    ),
    "BACKEND_ERROR": ("model, or an input that its schema should refuse", "no, unless others are predicted"),
    "INVALID_OUTPUT": ("model, or output_schema", "no"),
    "INTERNAL": ("Headrace", "once; report it"),
    "MALFORMED_RECORD": ("caller", "no: correct the record"),
    "UNREADABLE_BATCH": ("caller's Kafka client", "no: send the records again, in smaller or other batches"),
    "ABANDONED_RECORD": ("Headrace, or a library below it", "no: report it"),
    "SKIPPED_RECORD": ("operator", "if the reason no longer holds"),
}


def response_errors() -> str:
    """A table of all codes in the order of the wire contract; the text is the docstring of the code's class."""
    classes = {each.code: each for each in _descendants(AnswerError) if "code" in vars(each)}
    rows = [
        (code.value, "yes" if classes[code].dead_letter else "no", _text(classes[code])) for code in ErrorCode
    ]
    rows += [
        (error.code, "only", _text(error))
        for error in (MalformedRecordError, UnreadableBatchError, AbandonedRecordError, SkippedRecordError)
    ]
    head = "| Code | When | Whose fault | Send it again? | Dead letter |\n| --- | --- | --- | --- | --- |\n"
    return head + "".join(
        f"| `{code}` | {text} | {' | '.join(_REACTIONS[code])} | {dead_letter} |\n"
        for code, dead_letter, text in rows
    )


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

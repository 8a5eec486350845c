"""PURE. How Headrace reports what pydantic finds wrong: as JSON pointers for programs, as one line for people.

No input is quoted, because it may be a secret, or of any size.
"""

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import ValidationError

from schemas.events import ErrorDetail


class Problem(NamedTuple):
    """One wrong value: the keys and indices that lead to it, and what is wrong."""

    location: tuple[str | int, ...]
    message: str


MAX_PROBLEMS = 500


def problems(error: ValidationError) -> list[Problem]:
    """All problems, in the order in which pydantic found them; at least one.

    pydantic takes some 20 µs for each: more than `MAX_PROBLEMS` are not named.
    """
    count = error.error_count()
    if count > MAX_PROBLEMS:
        return [Problem((), f"{count} values are wrong")]
    return [
        Problem(found["loc"], _message(found["type"], found["msg"], found["input"]))
        for found in error.errors(include_url=False, include_context=False)
    ]


def error_details(found: Iterable[Problem]) -> list[ErrorDetail]:
    """The problems in the form of a response."""
    return [ErrorDetail(path=json_pointer(problem.location), message=problem.message) for problem in found]


def one_line(error: ValidationError, *, root: str, max_problems: int = 10) -> str:
    """`a.0.b: message; …`, with `root` as the name of the whole document."""
    return "; ".join(
        f"{'.'.join(map(str, problem.location)) or root}: {problem.message}"
        for problem in problems(error)[:max_problems]
    )


def _message(kind: str, message: str, value: object) -> str:
    # The commonest mistake with ids.
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return 'a number is not text; send it in quotes, like "42"'
    return message.removeprefix("Value error, ")


def json_pointer(steps: Iterable[str | int]) -> str:
    """The JSON pointer (RFC 6901) of these keys and indices; "" for the whole document."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)

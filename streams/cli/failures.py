"""How a verb reports an error of `schemas.errors`: text, JSON and exit code."""

import sys
from dataclasses import dataclass

from schemas.errors import AnswerError, HeadraceError, PromotionRejectedError, SetupError, UnavailableError

FAILED = 1
# 2 is wrong usage: typer ends with it.
NOT_REACHABLE = 3
# 4 is ANSWERED_WITH_ERRORS of `predict`.
REFUSED = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """The report of an error. `code` is for programs, `next_step` is a sentence or ""."""

    exit_code: int
    code: str
    message: str
    next_step: str = ""


def classify(error: HeadraceError) -> Failure:
    """PURE. Choose exit code, code and next step by the error's branch of the tree."""
    message = str(error)
    if isinstance(error, PromotionRejectedError | AnswerError):
        return Failure(REFUSED, error.code, message)
    if isinstance(error, UnavailableError):
        return Failure(
            NOT_REACHABLE,
            "UNAVAILABLE",
            message,
            "`headrace config` shows which addresses are used and where they come from; `headrace up` starts a "
            "local stack; `--set log_level=debug` shows what the client libraries say.",
        )
    code = "SETUP" if isinstance(error, SetupError) else getattr(error, "code", "FAILED")
    return Failure(FAILED, code, message)


def report(error: HeadraceError, *, as_json: bool) -> int:
    """Print `error`, with `as_json` as JSON too, and return the exit code."""
    failure = classify(error)
    if as_json:
        from streams.cli.output import print_json

        print_json({"error": {"code": failure.code, "message": failure.message}})
    text = f"{failure.code}: {failure.message}" if failure.exit_code == REFUSED else failure.message
    lines = f"headrace: {text}" + (f"\n{failure.next_step}" if failure.next_step else "")
    print(lines, file=sys.stderr)
    return failure.exit_code

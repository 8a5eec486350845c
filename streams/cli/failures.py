"""How a verb reports an error of `schemas.errors`: text, JSON and exit code."""

import os
import sys
from dataclasses import dataclass

from schemas.errors import AnswerError, HeadraceError, PromotionRejectedError, SetupError, UnavailableError

FAILED = 1
# 2 is wrong usage: typer ends with it.
NOT_REACHABLE = 3
ADDRESSES = frozenset({"HEADRACE_KAFKA_BOOTSTRAP", "HEADRACE_POSTGRES_DSN", "HEADRACE_REDIS_URL"})
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


def no_env_file() -> str:
    """A sentence for a command that found no env file, and whose environment names no service; "" for others."""
    from streams.config.sources import DEFAULT_ENV_FILE, found_env_file

    is_given = any(each.startswith("--env-file") for each in sys.argv) or ADDRESSES & os.environ.keys()
    if is_given or found_env_file() is not None:
        return ""
    return f"There is no env file {DEFAULT_ENV_FILE} in this folder, which `headrace up` writes; --env-file names another."


def report(error: HeadraceError, *, as_json: bool) -> int:
    """Print `error`, with `as_json` as JSON too, and return the exit code."""
    failure = classify(error)
    missing = no_env_file() if failure.exit_code == NOT_REACHABLE else ""
    if as_json:
        from streams.cli.output import print_json

        print_json({"error": {"code": failure.code, "message": failure.message}})
    text = f"{failure.code}: {failure.message}" if failure.exit_code == REFUSED else failure.message
    print("\n".join(filter(None, (f"headrace: {text}", missing, failure.next_step))), file=sys.stderr)
    return failure.exit_code

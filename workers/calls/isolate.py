"""Isolation of bad examples: a batch that fails is halved until each bad example fails alone.

A good batch is one call. A bad example among n costs about 2 log2(n) further calls. The search is
bounded by `MAX_CALLS` calls and twice the timeout. The parts that remain then have a timeout as their outcome,
so that the dispatcher tries each of their examples in a call of its own. A part that is too large is left to the
dispatcher too. When all of
the first `SUSPICIOUS_CALLS` calls failed, a few examples are tried alone. If they fail too, the model is
at fault, and the whole batch fails.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from schemas.errors import (
    AnswerAndDeadLetterError,
    BackendFailedError,
    BackendTimeoutError,
    BackendTooLargeError,
    BackendUnavailableError,
)
from schemas.events import JsonObject
from schemas.wording import number_of
from workers.backends.port import Backend

MAX_CALLS = 128
# The batch, its halves, quarters and eighths.
SUSPICIOUS_CALLS = 15
TRIED_ALONE = 8


async def infer_each(
    backend: Backend, inputs: Sequence[JsonObject], *, timeout_seconds: float
) -> list[Any | AnswerAndDeadLetterError]:
    """A prediction or an error for each input, in order.

    `timeout_seconds` bounds each call to the backend; all calls together take at most twice as long. A
    backend that is unavailable is not called again. Raises ValueError when a backend returns another
    number of predictions than inputs.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + 2 * timeout_seconds
    settled: list[Any] = [None] * len(inputs)
    # Parts of the batch, each with the error that its examples get when there is no further call for it.
    parts: deque[tuple[range, AnswerAndDeadLetterError | None]] = deque([(range(len(inputs)), None)])
    calls, answered = 0, False
    while parts:
        part, error = parts.popleft()
        remaining = end - loop.time()
        if error is None or (calls < MAX_CALLS and remaining > 0):
            calls += 1
            try:
                predictions = await backend.infer(
                    inputs[part.start : part.stop], timeout_seconds=min(timeout_seconds, remaining)
                )
            except BackendUnavailableError as unavailable:
                error, calls = _bare(unavailable), MAX_CALLS
            except BackendFailedError as failed:
                _bare(failed)
                if isinstance(failed, BackendTooLargeError):
                    settled[part.start : part.stop] = [failed] * len(part)
                elif len(part) > 1:
                    middle = len(part) // 2
                    parts += [(part[:middle], failed), (part[middle:], failed)]
                else:
                    settled[part.start] = failed
                if not answered and calls == SUSPICIOUS_CALLS:
                    parts.extendleft((range(at, at + 1), failed) for at in _scattered(len(inputs)))
                elif not answered and calls == SUSPICIOUS_CALLS + TRIED_ALONE:
                    calls = MAX_CALLS
                continue
            else:
                answered = True
                if len(predictions) != len(part):
                    count = number_of(len(predictions), "prediction")
                    raise ValueError(f"a backend has {count} for {number_of(len(part), 'input')}")
                settled[part.start : part.stop] = predictions
                continue
        elif answered:
            # Its examples may be good.
            error = BackendTimeoutError("the calls to isolate a bad example took too long")
        for index in part:
            # An example that was tried alone may have its outcome.
            if settled[index] is None:
                settled[index] = error
    return settled


def _bare(error: AnswerAndDeadLetterError) -> AnswerAndDeadLetterError:
    """The error without its traceback: the frames would keep the error and the response bodies alive."""
    error.__context__ = None
    return error.with_traceback(None)


def _scattered(count: int) -> list[int]:
    """Up to `TRIED_ALONE` indices spread over `count`, at uneven distances.

    Even distances could coincide with a pattern in the examples.
    """
    step = max(1, count // TRIED_ALONE)
    return [at * step + at % step for at in range(min(count, TRIED_ALONE))]

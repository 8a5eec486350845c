"""One bad example fails alone: a batch that fails is halved until only what is bad is left.

A good batch is one call. A bad example among n costs about 2 log2(n) further calls. There is an
end to it: after `MAX_CALLS` calls, or twice the timeout, the parts that are not settled fail as
they are, the smallest parts that there were. When all of the first calls failed, a few examples are
tried alone: if they fail too, it is the model that is at fault and no example, and all fail.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from schemas.errors import AnswerAndDeadLetterError, BackendFailedError, BackendUnavailableError
from schemas.events import JsonObject
from workers.backends.port import Backend

MAX_CALLS = 128
# The whole, its halves, quarters and eighths.
SUSPICIOUS_CALLS = 15
TRIED_ALONE = 8


async def infer_each(
    backend: Backend, inputs: Sequence[JsonObject], *, timeout_seconds: float
) -> list[Any | AnswerAndDeadLetterError]:
    """A prediction for each input, in order, or in its place the error that became of it.

    `timeout_seconds` bounds each call to the backend; all together take at most twice as long. A
    backend that cannot be reached is not asked again.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + 2 * timeout_seconds
    settled: list[Any] = [None] * len(inputs)
    # Parts of the batch, each with what its examples get when it cannot be tried any more.
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
                if len(part) > 1:
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
                    raise ValueError(f"a backend has {len(predictions)} predictions for {len(part)} inputs")
                settled[part.start : part.stop] = predictions
                continue
        for index in part:
            # One that was tried alone may be settled.
            if settled[index] is None:
                settled[index] = error
    return settled


def _bare(error: AnswerAndDeadLetterError) -> AnswerAndDeadLetterError:
    """The error without the frames that it passed, which hold it, and the answers that they read."""
    error.__context__ = None
    return error.with_traceback(None)


def _scattered(count: int) -> list[int]:
    """Some indices over all of `count`, in no rhythm that examples might have."""
    step = max(1, count // TRIED_ALONE)
    return [at * step + at % step for at in range(min(count, TRIED_ALONE))]

"""Steps of a worker at which a test kills it: the process kills itself there, as SIGKILL from elsewhere would.

A test arms a step by a file, which the process removes when it reaches the step. The fork server of the tests installs
the steps in processes whose environment names the folder of those files; the product knows nothing of them.
"""

import os
import signal
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

VARIABLE = "KILL_POINTS"


class Step(StrEnum):
    """When the process kills itself."""

    START = "while it starts"
    JOIN = "while it joins its group"
    ASSIGNED = "when it knows its offsets"
    BEGIN = "before it commits that it begins"
    BEGUN = "when it has committed that it begins"
    READ = "when it has read records"
    WRITE = "before it writes an output"
    WRITTEN = "when it has written an output"
    COMMIT = "before it commits"
    COMMITTED = "when it has committed"
    HAND_OVER = "before it hands over"
    HANDED_OVER = "when it has handed over"


class KillPoints:
    """The steps that are armed, for the processes of one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._armed: set[Step] = set()

    def arm(self, step: Step) -> None:
        (self.folder / step.name).touch()
        self._armed.add(step)

    def reached(self) -> set[Step]:
        """The steps at which a process has killed itself since the last time."""
        found = {step for step in self._armed if not (self.folder / step.name).exists()}
        self._armed -= found
        return found

    def disarm(self) -> None:
        """Take back what was not reached; what is reached at this moment counts as reached."""
        for step in set(self._armed):
            try:
                (self.folder / step.name).unlink()
            except FileNotFoundError:
                continue
            self._armed.discard(step)


def install(folder: Path) -> None:
    """Make this process kill itself at the armed steps."""
    from registry.metric_windows import MetricWindows
    from registry.prediction_log import PredictionLog
    from streams.kafka.aiokafka_consumer import AiokafkaConsumer
    from streams.kafka.batch_producer import BatchProducer
    from streams.kafka.batch_reader import BatchReader
    from streams.kafka.committing import CommittingConsumer
    from streams.kafka.memberships import Membership
    from streams.kafka.transport import SliceConsumer
    from streams.roles.role_consumer import RoleConsumer
    from streams.serving.responder import Responder

    def at(step: Step) -> None:
        try:
            (folder / step.name).unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def always(*_: object) -> bool:
        return True

    def around(
        owner: Any,
        name: str,
        before: Step | None,
        after: Step | None,
        *,
        counts: Callable[[Any, Any], bool] = always,
    ) -> None:
        """Reach `before` and `after` around a method, where its arguments or its result `counts`."""
        original = getattr(owner, name)

        def enter(arguments: Any) -> None:
            if before is not None and counts(arguments, None):
                at(before)

        def leave(arguments: Any, result: Any) -> None:
            if after is not None and counts(arguments, result):
                at(after)

        if iscoroutinefunction(original):

            @wraps(original)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                enter(args)
                result = await original(*args, **kwargs)
                leave(args, result)
                return result

            setattr(owner, name, awaited)
        else:

            @wraps(original)
            def called(*args: Any, **kwargs: Any) -> Any:
                enter(args)
                result = original(*args, **kwargs)
                leave(args, result)
                return result

            setattr(owner, name, called)

    around(RoleConsumer, "__init__", None, Step.START)
    around(Membership, "_joined", None, Step.JOIN)
    around(AiokafkaConsumer, "seek_to_committed", None, Step.ASSIGNED)
    around(CommittingConsumer, "commit_attempts", Step.BEGIN, Step.BEGUN)
    around(BatchReader, "fetched_records", None, Step.READ, counts=lambda _, records: bool(records))
    around(CommittingConsumer, "_commit", Step.COMMIT, Step.COMMITTED)
    # The first assignment revokes nothing.
    around(
        SliceConsumer,
        "on_partitions_revoked",
        Step.HAND_OVER,
        Step.HANDED_OVER,
        counts=lambda given, _: bool(given[1]),
    )
    for name in ("send_batch", "send_record", "deliver_headers"):
        around(BatchProducer, name, Step.WRITE, None)
    for owner, name in (
        (Responder, "delivered"),
        (BatchProducer, "deliver_record"),
        (BatchProducer, "deliver_headers"),
    ):
        around(owner, name, None, Step.WRITTEN)
    for stored in (MetricWindows, PredictionLog):
        around(stored, "add", Step.WRITE, Step.WRITTEN)

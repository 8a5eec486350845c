"""The loads of one worker: the state of each part of each model, and the task that loads it."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import NamedTuple

from registry.snapshot import RegisteredModel
from streams.serving.load_state import (
    CURRENT,
    RETRY_SECONDS,
    LoadEvent,
    LoadPhase,
    ModelLoad,
    ModelPart,
    advance,
    is_due,
)


class LoadKey(NamedTuple):
    """Identifies a load; at most one runs for a key."""

    model_name: str
    part: ModelPart


class ModelLoads:
    """Starts `load` for a key whose state is LOADING, and cancels it when the state changes."""

    def __init__(
        self,
        load: Callable[[LoadKey, RegisteredModel], Coroutine[None, None, None]],
        clock: Callable[[], float],
    ) -> None:
        self._load = load
        self._clock = clock
        self._states: dict[LoadKey, ModelLoad] = {}  # of the loads that are not CURRENT
        self._tasks: dict[LoadKey, asyncio.Task[None]] = {}

    def advance(
        self,
        key: LoadKey,
        event: LoadEvent,
        *,
        target: RegisteredModel | None = None,
        failures: Mapping[str, str] | None = None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Advance the state of a load, and let its task follow the state."""
        state = advance(
            self._states.get(key, CURRENT),
            event,
            target=target,
            failures=failures,
            retry_seconds=retry_seconds,
            now=self._clock(),
        )
        self._abandon(key)
        if state.phase is not LoadPhase.CURRENT:
            self._states[key] = state
        if state.phase is LoadPhase.LOADING and state.target is not None:
            self._start(key, state.target)

    def retry_due(self) -> None:
        """Start the failed loads that are due."""
        for key, state in list(self._states.items()):
            if is_due(state, self._clock()):
                self.advance(key, LoadEvent.RETRY_DUE)

    def abandon_all(self) -> None:
        """Forget the states of all loads, and cancel their tasks."""
        for key in list(self._states):
            self._abandon(key)

    async def close(self) -> None:
        """Cancel the tasks, and wait for their ends."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def is_wanted(self, key: LoadKey) -> bool:
        """Whether the calling task is the load of this key; False when a newer one took its place."""
        return self._tasks.get(key) is asyncio.current_task()

    def running(self, part: ModelPart) -> Sequence[LoadKey]:
        """The loads of this part that run, in the order in which they began."""
        return [key for key in self._tasks if key.part is part]

    async def wait(self, part: ModelPart) -> None:
        """Wait until no load of this part runs."""
        while tasks := [self._tasks[key] for key in self.running(part)]:
            await asyncio.wait(tasks)

    def states(self, part: ModelPart) -> dict[str, ModelLoad]:
        """By model, the states of this part that are not CURRENT."""
        return {key.model_name: state for key, state in self._states.items() if key.part is part}

    def unloadable(self) -> dict[str, dict[str, str]]:
        """By model, the versions that cannot be loaded and the reasons."""
        found: dict[str, dict[str, str]] = {}
        for key, state in self._states.items():
            if state.failures:
                found.setdefault(key.model_name, {}).update(state.failures)
        return found

    def _abandon(self, key: LoadKey) -> None:
        """Forget the state of a load, and cancel its task unless that is the caller."""
        self._states.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _start(self, key: LoadKey, target: RegisteredModel) -> None:
        task = self._tasks[key] = asyncio.create_task(self._load(key, target))

        def on_end(task: asyncio.Task[None]) -> None:
            # A newer load may have taken its place.
            if self._tasks.get(key) is task:
                del self._tasks[key]

        task.add_done_callback(on_end)

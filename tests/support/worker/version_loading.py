"""A version loader for tests, which records no loads unless it is given a journal."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from schemas.models import ModelSpec
from streams.serving.load_journal import Begin
from streams.serving.version_loader import Journal, LoadBackend, LoadFailed, VersionLoader
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingMeter
from workers.calls.observers import Meter


class NoJournal:
    """No load is recorded, and none waits."""

    def attempt(
        self, model_name: str, spec: ModelSpec, *, others_are_served: bool
    ) -> AbstractAsyncContextManager[Begin]:
        assert model_name
        assert spec.version
        assert others_are_served in {True, False}
        return nullcontext(_begin)


async def _begin() -> None:
    """Nothing is recorded."""


def version_loader(
    load: LoadBackend,
    *,
    journal: Journal | None = None,
    timeout_seconds: float = DEADLINE_SECONDS,
    on_load_failed: LoadFailed = lambda *_: None,
    meter_of: Callable[[str, str], Meter] = lambda *_: RecordingMeter(),
) -> VersionLoader:
    return VersionLoader(
        load,
        journal=journal or NoJournal(),
        timeout_seconds=timeout_seconds,
        on_load_failed=on_load_failed,
        meter_of=meter_of,
    )

"""The state of loading a model: every sequence of events keeps its invariants."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from registry.snapshot import RegisteredModel
from schemas.models import Route
from streams.serving.load_state import (
    CURRENT,
    LOADING_REASON,
    RETRY_SECONDS,
    TRANSITIONS,
    LoadEvent,
    LoadPhase,
    ModelLoad,
    advance,
    is_due,
)


def revision(number: int) -> RegisteredModel:
    return RegisteredModel("m", number, Route(salt="m", ranges=()), {})


LOADING = advance(CURRENT, LoadEvent.REVISION_UNLOADED, target=revision(1))
FAILED = advance(LOADING, LoadEvent.LOAD_FAILED, failures={"v1": "gone"}, now=100.0)


def test_a_failed_load_waits_and_keeps_its_reason_during_the_retry() -> None:
    assert (FAILED.phase, FAILED.target, FAILED.reason) == (
        LoadPhase.FAILED,
        revision(1),
        "v1 cannot be loaded: gone",
    )
    assert not is_due(FAILED, 100.0 + RETRY_SECONDS - 0.1)
    assert is_due(FAILED, 100.0 + RETRY_SECONDS)
    again = advance(FAILED, LoadEvent.RETRY_DUE, now=100.0 + RETRY_SECONDS)
    assert (again.phase, again.target, again.reason) == (LoadPhase.LOADING, FAILED.target, FAILED.reason)


def test_a_newer_revision_replaces_a_load_and_a_failure() -> None:
    for load in (CURRENT, LOADING, FAILED):
        assert advance(load, LoadEvent.REVISION_READY) == CURRENT
        assert advance(load, LoadEvent.REVISION_UNLOADED, target=revision(2)) == ModelLoad(
            LoadPhase.LOADING, revision(2)
        )
    assert LOADING.reason == LOADING_REASON


def test_other_events_are_refused() -> None:
    """A retry too, before it is due."""
    for load in (CURRENT, LOADING, FAILED):
        for event in LoadEvent:
            if (load.phase, event) not in TRANSITIONS:
                with pytest.raises(ValueError, match="cannot happen"):
                    advance(load, event)
    with pytest.raises(ValueError, match="cannot happen"):
        advance(FAILED, LoadEvent.RETRY_DUE, now=100.0)


class Loading(RuleBasedStateMachine):
    """A worker's load of one model, with a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.load = CURRENT
        self.newest = 0
        self.served = 0
        self.now = 0.0

    def advance(self, event: LoadEvent, **fields: Any) -> None:
        self.load = advance(self.load, event, now=self.now, **fields)

    @rule(ready=st.booleans())
    def revise(self, *, ready: bool) -> None:
        self.newest += 1
        if ready:
            self.advance(LoadEvent.REVISION_READY)
            self.served = self.newest
        else:
            self.advance(LoadEvent.REVISION_UNLOADED, target=revision(self.newest))

    @precondition(lambda self: self.load.phase is LoadPhase.LOADING)
    @rule(reason=st.sampled_from(["", "broken"]))
    def end(self, reason: str) -> None:
        assert self.load.target is not None
        target = self.load.target.revision
        if reason:
            self.advance(LoadEvent.LOAD_FAILED, failures={"v1": reason})
        else:
            self.advance(LoadEvent.LOADED)
            self.served = target

    @rule(seconds=st.floats(0.0, 2 * RETRY_SECONDS))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if is_due(self.load, self.now):
            self.advance(LoadEvent.RETRY_DUE)

    @invariant()
    def current_is_the_newest(self) -> None:
        """And a model that is not current says why, and what it waits for."""
        current = self.load.phase is LoadPhase.CURRENT
        assert current == (self.served == self.newest) == (self.load == CURRENT)
        assert current or (self.load.target == revision(self.newest) and self.load.reason)

    @invariant()
    def only_a_failure_waits(self) -> None:
        assert (self.load.retry_at > 0.0) == (self.load.phase is LoadPhase.FAILED)
        assert self.load.retry_at <= self.now + RETRY_SECONDS


TestLoading = Loading.TestCase
TestLoading.settings = settings(max_examples=100, deadline=None)

"""streams/promotions/convergence.py: who answers by an epoch, and what holds the others back."""

from registry.worker_heartbeat import WorkerHeartbeat
from streams.promotions.convergence import Convergence, convergence


def reached(*live: WorkerHeartbeat) -> Convergence:
    """How far live workers have followed to epoch 7 of the model m."""
    return convergence([(heartbeat, 0.5) for heartbeat in live], "m", 7)


def test_a_worker_serves_a_model_by_its_epoch_and_its_loads() -> None:
    """One has not followed yet, one cannot load a version of this model, one only of another model."""
    seen = reached(
        WorkerHeartbeat("w-1", "b", 7),
        WorkerHeartbeat("w-2", "b", 6, {"m": "an older trouble"}),
        WorkerHeartbeat("w-3", "b", 8, {"m": "v2 cannot be loaded"}),
        WorkerHeartbeat("w-4", "b", 8, {"other": "v9 cannot be loaded"}),
    )
    assert seen.serving == ["w-1", "w-4"]
    assert seen.behind == {
        "w-2": "it serves epoch 6 of the registry, and not yet epoch 7",
        "w-3": "v2 cannot be loaded",
    }
    assert not seen.complete


def test_a_worker_behind_tells_its_revision_and_a_served_one_its_missing_rollback_target() -> None:
    unloadable = {"m": {"v1": "gone"}}
    seen = reached(
        WorkerHeartbeat("w-1", "b", 7, unloadable=unloadable),
        WorkerHeartbeat("w-2", "b", 7, {"m": "v1 cannot be loaded: gone"}, {"m": 3}, unloadable),
        WorkerHeartbeat("w-3", "b", 7, {"m": "v1 cannot be loaded: gone"}, {}, unloadable),
    )
    assert seen.serving == ["w-1"]
    assert seen.behind.keys() == {"w-2", "w-3"}
    assert seen.older_revisions == {"w-2": 3}
    assert seen.unloadable_targets == {"w-1": "v1 cannot be loaded: gone"}


def test_a_worker_that_was_started_again_is_waited_for_until_its_old_heartbeat_runs_out() -> None:
    """Under one name an old boot may still answer, as far as anybody can tell."""
    assert not reached(WorkerHeartbeat("w", "old", 6), WorkerHeartbeat("w", "new", 7)).complete
    assert reached(WorkerHeartbeat("w", "new", 7)).complete
    assert reached().complete


def test_two_workers_of_one_name_are_told_apart() -> None:
    """By their boots: neither hides the other."""
    seen = reached(
        WorkerHeartbeat("w", "b-1", 7),
        WorkerHeartbeat("w", "b-2", 5),
        WorkerHeartbeat("w", "b-3", 6),
        WorkerHeartbeat("x", "b-1", 7),
    )
    assert seen.serving == ["w (b-1)", "x"]
    assert seen.behind.keys() == {"w (b-2)", "w (b-3)"}


def test_a_silent_worker_is_named() -> None:
    """It may run without PostgreSQL. One that was started again, or is silent for long, is not missed."""
    seen = convergence(
        [
            (WorkerHeartbeat("cut off", "b", 6), 7.5),
            (WorkerHeartbeat("restarted", "old", 6), 7.5),
            (WorkerHeartbeat("restarted", "new", 7), 0.5),
            (WorkerHeartbeat("gone", "b", 6), 601.0),
        ],
        "m",
        7,
    )
    assert (seen.serving, seen.behind, seen.silent) == (["restarted"], {}, {"cut off": 7.5})
    assert seen.complete

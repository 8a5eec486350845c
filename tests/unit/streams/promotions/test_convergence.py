"""streams/promotions/convergence.py: who answers by an epoch, and what holds the others back."""

from registry.worker_heartbeat import WorkerHeartbeat
from streams.promotions.convergence import convergence


def test_a_worker_serves_a_model_by_its_epoch_and_its_loads() -> None:
    """One has not followed yet, one cannot load a version of this model, one only of another model."""
    heartbeats = [
        WorkerHeartbeat("w-1", "b", 7),
        WorkerHeartbeat("w-2", "b", 6, {"m": "an older trouble"}),
        WorkerHeartbeat("w-3", "b", 8, {"m": "v2 cannot be loaded"}),
        WorkerHeartbeat("w-4", "b", 8, {"other": "v9 cannot be loaded"}),
    ]
    seen = convergence(heartbeats, "m", 7)
    assert seen.serving == ["w-1", "w-4"]
    assert seen.behind == {
        "w-2": "it serves epoch 6 of the registry, and not yet epoch 7",
        "w-3": "v2 cannot be loaded",
    }
    assert not seen.complete


def test_a_worker_that_was_started_again_is_waited_for_until_its_old_heartbeat_runs_out() -> None:
    """Under one name an old boot may still answer, as far as anybody can tell."""
    assert not convergence([WorkerHeartbeat("w", "old", 6), WorkerHeartbeat("w", "new", 7)], "m", 7).complete
    assert convergence([WorkerHeartbeat("w", "new", 7)], "m", 7).complete
    assert convergence([], "m", 7).complete

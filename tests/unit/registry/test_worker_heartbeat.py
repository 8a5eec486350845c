"""registry/worker_heartbeat.py: what the heartbeats of live workers say together."""

from registry.worker_heartbeat import WorkerHeartbeat, unloadable_everywhere


def test_a_version_is_unloadable_when_all_live_workers_say_so() -> None:
    """One that says nothing may be able to load it. Without workers nothing is known."""
    assert unloadable_everywhere([]) == {}
    assert unloadable_everywhere([{"v1": "gone"}, {}]) == {}
    assert unloadable_everywhere([{"v1": "gone", "v2": "bad"}, {"v1": "not here"}]) == {"v1": "gone"}


def test_what_is_not_loaded_of_a_served_route_is_its_rollback_target() -> None:
    """Of an older route it may be a version that the newest one needs."""
    unloadable = {"m": {"v1": "gone"}}
    heartbeat = WorkerHeartbeat("w", "b", 5, unloadable=unloadable)
    assert (heartbeat.unloadable_target("m"), heartbeat.unloadable_target("other")) == ({"v1": "gone"}, {})
    behind = WorkerHeartbeat("w", "b", 5, {"m": "v1 cannot be loaded: gone"}, {"m": 3}, unloadable)
    assert behind.unloadable_target("m") == {}

"""streams/serving.py: a table is built beside the old one, and a load that fails moves no traffic."""

import pytest

from registry.snapshot import RegisteredModel, RegisteredVersion, Snapshot
from schemas.errors import ArtifactError, BackendUnavailableError
from schemas.events import JsonObject
from schemas.models import BUCKETS, BucketRange, ModelSpec, Route, Status
from streams.serving import ServingTable, serve
from tests.serving import RecordingBackend, spec_of


class Loader:
    """Loads a RecordingBackend for each version but the broken ones."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.loaded: dict[str, RecordingBackend] = {}

    async def __call__(self, model_name: str, spec: ModelSpec) -> RecordingBackend:
        if spec.version in self.broken:
            raise ArtifactError(f"{model_name} {spec.version} is broken")
        backend = self.loaded[spec.version] = RecordingBackend()
        return backend


def snapshot_of(
    epoch: int, weights: dict[str, int], previous: str | None = None, schema: JsonObject | None = None
) -> Snapshot:
    """One model `m` at revision `epoch`, whose route gives each version so many percent."""
    ranges, start = [], 0
    for version, weight in weights.items():
        end = start + weight * BUCKETS // 100
        ranges.append(BucketRange(start=start, end=end, version=version))
        start = end
    names = {*weights, *([previous] if previous else [])}
    versions = {name: RegisteredVersion(spec_of(name, schema), Status.PRODUCTION) for name in names}
    route = Route(salt="m", ranges=tuple(ranges))
    return Snapshot(epoch, {"m": RegisteredModel("m", epoch, route, versions, previous)})


async def test_loads_what_takes_traffic_and_the_rollback_target() -> None:
    """Versions with buckets and the previous production are loaded; the revision is the registry's."""
    load = Loader()
    table = await serve(snapshot_of(3, {"v2": 90, "v3": 10}, previous="v1"), ServingTable(), load)
    assert load.loaded.keys() == {"v1", "v2", "v3"}
    assert (table.epoch, table.models["m"].revision, table.complete) == (3, 3, True)


async def test_keeps_what_is_loaded() -> None:
    """A version that stays keeps its backend; only the new one is loaded."""
    load = Loader()
    first = await serve(snapshot_of(1, {"v1": 100}), ServingTable(), load)
    kept = load.loaded.pop("v1")
    second = await serve(snapshot_of(2, {"v1": 90, "v2": 10}), first, load)
    assert load.loaded.keys() == {"v2"}
    assert second.models["m"].versions["v1"].backend is kept
    assert first.versions() <= second.versions()


async def test_a_load_that_fails_leaves_the_old_route() -> None:
    """The model stays at its revision, the table says that it is behind, and the next try heals it."""
    load = Loader()
    first = await serve(snapshot_of(1, {"v1": 100}), ServingTable(), load)
    load.broken = {"v3"}
    second = await serve(snapshot_of(2, {"v2": 90, "v3": 10}), first, load)
    assert second.models["m"] is first.models["m"]
    assert (second.epoch, second.complete) == (2, False)
    assert load.loaded["v2"].closed, "what was loaded for nothing is let go of"
    load.broken = set()
    third = await serve(snapshot_of(2, {"v2": 90, "v3": 10}), second, load)
    assert (third.models["m"].revision, third.complete) == (2, True)


async def test_without_an_older_route_the_others_are_served() -> None:
    """At a worker's start a broken version answers that it is not available, and heals."""
    load = Loader()
    load.broken = {"v2"}
    first = await serve(snapshot_of(1, {"v1": 90, "v2": 10}), ServingTable(), load)
    assert not first.complete
    versions = first.models["m"].versions
    assert await versions["v1"].backend.infer([{"x": 1}], timeout_seconds=1) == [[{"x": 1}]]
    with pytest.raises(BackendUnavailableError, match="v2 is not loaded"):
        await versions["v2"].backend.infer([{"x": 1}], timeout_seconds=1)
    load.broken = set()
    second = await serve(snapshot_of(1, {"v1": 90, "v2": 10}), first, load)
    assert second.complete
    assert second.models["m"].versions["v1"] is versions["v1"]


async def test_a_model_without_traffic_answers_nobody() -> None:
    """It is known, but has no version for a user."""
    table = await serve(snapshot_of(1, {}), ServingTable(), Loader())
    assert table.models["m"].version_for("u") is None


async def test_a_schema_that_is_none_is_a_failed_load() -> None:
    """The backend is let go of and the route stays."""
    load = Loader()
    first = await serve(snapshot_of(1, {"v1": 100}), ServingTable(), load)
    second = await serve(snapshot_of(2, {"v2": 100}, schema={"type": "nonsense"}), first, load)
    assert second.models["m"] is first.models["m"]
    assert load.loaded["v2"].closed

"""The benchmark of a large registry, on one so small that its figures mean nothing."""

from pathlib import Path

from tests.bench.registry_environment import model_server
from tests.bench.registry_figures import LIMITS, document
from tests.bench.registry_scale import LOADED_VERSIONS, measure


async def test_benchmark_of_a_registry_measures_all(database: str, tmp_path: Path) -> None:
    """Every model is loaded, followed and routed to, and each figure is there."""
    with model_server(tmp_path) as endpoint:
        measured = await measure(database, endpoint, tmp_path, models=20, repeats=1, report=print)
    assert len(measured.refresh_ms) == len(measured.refreshes) == 20
    assert len(measured.loads) == LOADED_VERSIONS
    assert all(one.stall_ms > 0 for one in (*measured.refreshes, *measured.loads))
    written = document(measured)
    assert written["targets"].keys() == LIMITS.keys()
    assert all(figure > 0 for name, figure in written.items() if isinstance(figure, float))

"""A version without traffic that cannot be loaded decides nothing for those that have traffic."""

from pathlib import Path

import pytest

from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from tests.support.models.served_model import apply, predictions_of, serve_model, spec_of
from tests.support.promotions.events import event
from tests.support.stack.command import headrace
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, Asking, asking
from tests.support.worker.process import StartWorker

LONG = ("--wait", "--timeout", "60")


@pytest.fixture
async def settings(topics: MakeTopics, database: str, tmp_path: Path) -> Settings:
    return await topics(
        PARTITIONS, postgres_dsn=database, worker_name="w", artifact_dir=str(tmp_path / "artifacts")
    )


async def answered_by(asked: Asking, model: str, version: str, revision: int) -> None:
    (answer,) = await asked.ask(model, [5])
    assert (answer.model_version, answer.revision, answer.error) == (version, revision, None)
    assert answer.predictions == predictions_of(version, 5)


def broken(folder: Path) -> dict[str, object]:
    """A version whose file has another digest than it is registered with."""
    return spec_of(folder, "v1") | {"version": "broken", "artifact_sha256": "0" * 64}


async def test_a_good_version_after_a_broken_one_is_served(
    settings: Settings, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """The broken one is the rollback target then: it is reported as that, and can be dropped."""
    model = await serve_model(database, tmp_path)
    await apply(
        database,
        event("register", model, model=broken(tmp_path)),
        event("register", model, model=spec_of(tmp_path, "v2")),
        event("promote", model, version="broken"),
    )
    worker = start_worker(settings)
    await worker.ready()
    async with asking(settings) as asked:
        (failed,) = await asked.ask(model, [5])
        assert failed.error is not None
        assert failed.error.code == "BACKEND_UNAVAILABLE"
        promoted = await headrace("promote", model, "v2", "--direct", *LONG, settings=settings)
        assert promoted.code == 0, promoted.stderr
        await answered_by(asked, model, "v2", 6)
        assert (await worker.logged("rollback target not loaded"))["version"] == "broken"
        status = await headrace("status", model, settings=settings)
        assert "served by w\n" in status.stdout
        assert "no rollback target on w: broken cannot be loaded: " in status.stdout
        assert f"drop it by `headrace archive {model} broken`" in status.stdout
        dropped = await headrace("archive", model, "broken", "--direct", *LONG, settings=settings)
        assert (dropped.code, "rollback target" in dropped.stderr) == (0, False)
        status = await headrace("status", model, settings=settings)
        assert "rollback target" not in status.stdout


async def test_while_a_broken_version_is_in_production_the_status_says_who_answers(
    settings: Settings, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """The worker's older route, by its revision and its versions."""
    model = await serve_model(database, tmp_path, canary_percent=25)
    await apply(database, event("register", model, model=broken(tmp_path)))
    await start_worker(settings).ready()
    await apply(database, event("promote", model, version="broken"))
    waited = await headrace(
        "reshuffle", model, "other", "--direct", "--wait", "--timeout", "8", settings=settings
    )
    assert waited.code == 3
    assert "\n  w: broken cannot be loaded: " in waited.stderr
    assert waited.stderr.endswith("; it serves revision 5\n")
    status = await headrace("status", model, settings=settings)
    assert (
        "not yet by w, which serves revision 5 (v1 75%, v2 25%): broken cannot be loaded: " in status.stdout
    )
    (document,) = (await headrace("status", model, "--json", settings=settings)).documents
    (worker,) = document["workers"]
    assert (worker["serves"], worker["older_revision"], worker["unloadable_target"]) == (False, 5, "")


async def test_the_first_promotion_may_be_a_broken_version(
    settings: Settings, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Its requests are told so, and the good one that follows is served."""
    model = "first"
    await apply(
        database,
        event("register", model, model=broken(tmp_path)),
        event("register", model, model=spec_of(tmp_path, "v1")),
    )
    worker = start_worker(settings)
    await worker.ready()
    async with asking(settings) as asked:
        await apply(database, event("promote", model, version="broken"))
        await worker.logged("version not loaded")
        (failed,) = await asked.ask(model, [5])
        assert failed.error is not None
        assert failed.error.message == "broken is not loaded on this worker; its log says why"
        promoted = await headrace("promote", model, "v1", "--direct", *LONG, settings=settings)
        assert promoted.code == 0, promoted.stderr
        await answered_by(asked, model, "v1", 4)


async def test_a_rollback_target_whose_file_is_gone_holds_up_nothing(
    settings: Settings, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Neither a start of a worker nor `--wait` of later changes."""
    model = await serve_model(database, tmp_path)
    await apply(
        database,
        event("register", model, model=spec_of(tmp_path, "v2")),
        event("register", model, model=spec_of(tmp_path, "v2") | {"version": "v3"}),
        event("promote", model, version="v2"),
    )
    (tmp_path / "v1.onnx").unlink()
    worker = start_worker(settings)
    await worker.ready()
    await worker.logged("rollback target not loaded")
    async with asking(settings) as asked:
        canary = await headrace("canary", model, "v3", "50", "--direct", *LONG, settings=settings)
        assert canary.code == 0, canary.stderr
        assert canary.stdout.endswith("served by every live worker: w\n")
        assert "w has no rollback target: v1 cannot be loaded: " in canary.stderr
        withdrawn = await headrace("rollback", model, "--direct", *LONG, settings=settings)
        assert withdrawn.code == 0, withdrawn.stderr
        await answered_by(asked, model, "v2", 7)
        for wanted in ((), ("--version", "v1")):
            again = await headrace("rollback", model, *wanted, "--direct", settings=settings)
            assert again.code == REFUSED
        assert again.stderr.startswith("headrace: NOT_LOADED: no live worker can load v1: ")
        forced = await headrace(
            "rollback", model, "--version", "v1", "--force", "--direct", settings=settings
        )
        assert forced.stdout == f"applied: {model} is at revision 8, v1 100%\n"

"""The verbs that change a model, through a real control worker, and how they wait for the workers."""

import asyncio
import os
import pty
import uuid
from pathlib import Path

import pytest

from registry.heartbeats import Heartbeats
from registry.postgres import Database
from registry.worker_heartbeat import WorkerHeartbeat
from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from tests.support.deadline import DEADLINE_SECONDS, wait_until
from tests.support.models.served_model import apply, serve_model, spec_of
from tests.support.promotions.events import event, spec
from tests.support.stack.command import HEADRACE, environment, headrace
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker
from tests.support.worker.registry_waits import until_so_many_live

FALLBACK = "no result from Kafka within 0.5 s; the event goes to PostgreSQL too"
NOBODY = "no live worker"
# No server listens on this reserved port.
NOWHERE = "127.0.0.1:1"


@pytest.fixture
async def settings(topics: MakeTopics, database: str, tmp_path: Path) -> Settings:
    """Topics and a registry of the test's own, with model `m`: v1 in production, v2 and v3 in staging."""
    await apply(
        database,
        *(event("register", model=spec(version)) for version in ("v1", "v2", "v3")),
        event("promote", version="v1"),
    )
    return await topics(1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))


async def test_every_verb_goes_through_the_control_worker(
    settings: Settings, start_worker: StartWorker
) -> None:
    """A model's whole life by events on the topic; the results say so."""
    worker = start_worker(settings, roles="control")
    await worker.ready()
    verbs = [
        ("split", "m", "v2=10", "v3=20.5"),
        ("reshuffle", "m", "autumn"),
        ("canary", "m", "v2", "50"),
        ("promote", "m", "v2"),
        ("rollback", "m"),
        ("archive", "m", "v3"),
    ]
    by_the_worker = 0
    for revision, verb in enumerate(verbs, start=5):
        ended = await headrace(*verb, "--actor", "ann", "--json", settings=settings)
        (document,) = ended.documents
        # A busy machine may take the other way as well; the event is decided once in any case.
        told = [line for line in ended.stderr.splitlines() if "cannot be tried from here" not in line]
        assert told in ([], [f"headrace: {FALLBACK}"])
        assert (document["status"], document["revision"]) == ("applied", revision)
        assert (document["action"], document["actor"]) == (verb[0], "ann")
        by_the_worker += document["via"] == "kafka"
        await worker.logged("promotion decided", times=by_the_worker)

    async def decided_by_the_worker() -> bool:
        ended = await headrace("reshuffle", "m", uuid.uuid4().hex, "--json", settings=settings)
        return bool(ended.documents[0]["via"] == "kafka")

    await wait_until(decided_by_the_worker, "a decision by Kafka")
    await worker.logged("promotion decided", times=by_the_worker + 1)
    refused = await headrace("archive", "m", "v1", settings=settings)
    assert refused.code == REFUSED
    assert "headrace: ILLEGAL_TRANSITION: v1 is in production" in refused.stderr


async def test_a_split_names_each_version_once_with_a_weight(settings: Settings) -> None:
    """What is no VERSION=WEIGHT is refused before anything is sent."""
    for wrong in (("v2",), ("v2=much",), ("v2=5", "v2=6"), ("=5",)):
        ended = await headrace("split", "m", *wrong, settings=settings)
        assert ended.code == REFUSED
        assert ended.stderr.startswith("headrace: BAD_WEIGHT: ")


async def test_without_a_control_worker_the_fallback_is_told(settings: Settings) -> None:
    """The result is the same, and standard error says that no control worker decided it."""
    ended = await headrace("rollback", "m", "--json", settings=settings)
    assert ended.stderr.startswith(f"headrace: {FALLBACK}\n")
    assert (ended.code, ended.documents[0]["error"]["code"]) == (REFUSED, "ILLEGAL_TRANSITION")
    ended = await headrace("canary", "m", "v2", "5", "--wait", "--json", settings=settings)
    assert (ended.code, ended.documents[0]["via"]) == (0, "postgresql")
    assert ended.documents[0]["workers"] == {
        "serving": [],
        "behind": {},
        "older_revisions": {},
        "unloadable_targets": {},
        "silent": {},
    }
    assert FALLBACK in ended.stderr
    assert NOBODY in ended.stderr
    directly = await headrace("rollback", "m", "--direct", settings=settings)
    assert (directly.code, directly.stderr) == (0, "")


async def test_what_cannot_be_reached_has_exit_code_3(settings: Settings) -> None:
    """Neither Kafka nor PostgreSQL: the message says that the event may have been applied."""
    away = Settings.model_validate(
        settings.model_dump()
        | {"kafka_bootstrap": NOWHERE, "postgres_dsn": f"postgresql://{NOWHERE}/headrace"}
    )
    ended = await headrace("rollback", "m", "--json", settings=away)
    assert ended.code == 3
    assert ended.documents[-1]["error"]["code"] == "UNAVAILABLE"
    assert "may have been applied: look at `headrace status m`" in ended.stderr


async def test_applied_but_not_to_be_seen_has_exit_code_3(
    settings: Settings, start_worker: StartWorker
) -> None:
    """PostgreSQL is out of reach from here: the message says that the promotion is applied."""
    await start_worker(settings, roles="control").ready()
    away = Settings.model_validate(
        settings.model_dump() | {"postgres_dsn": f"postgresql://{NOWHERE}/headrace"}
    )
    ended = await headrace("canary", "m", "v2", "5", "--wait", "--json", settings=away)
    result, failure = ended.documents
    assert (ended.code, result["status"], result["via"]) == (3, "applied", "kafka")
    assert "revision 5 is applied, but which workers" in failure["error"]["message"]


async def test_wait_ends_when_every_worker_answers_by_the_result(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Two workers follow; `status` names them; one that cannot load a version is named with the reason."""
    model = await serve_model(database, tmp_path)
    settings = await topics(1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    await start_worker(settings, "control").ready()
    for name in ("w-1", "w-2"):
        worker = start_worker(settings.model_copy(update={"worker_name": name}))
        await worker.ready()
    registry = await Database.connect(database)
    await until_so_many_live(Heartbeats(registry), 2)
    await registry.close()
    await apply(
        database,
        event("register", model, model=spec_of(tmp_path, "v2")),
        event(
            "register", model, model=spec_of(tmp_path, "v1") | {"version": "bad", "artifact_sha256": "0" * 64}
        ),
    )
    ended = await headrace("canary", model, "v2", "5", "--wait", "--timeout", "60", settings=settings)
    assert ended.code == 0
    assert ended.stdout == (
        f"applied: {model} is at revision 5, v1 95%, v2 5%\nserved by every live worker: w-1, w-2\n"
    )
    # It is over when both have tried to load the version, and have said so.
    arguments = ("canary", model, "bad", "50", "--force", "--wait", "--timeout", "8")
    ended = await headrace(*arguments, "--json", settings=settings)
    result, failure = ended.documents
    assert (ended.code, failure["error"]["code"]) == (3, "WORKERS_BEHIND")
    assert (result["status"], result["workers"]["serving"]) == ("applied", [])
    assert "bad cannot be loaded" in result["workers"]["behind"]["w-1"]
    assert "2 of 2 live workers do not serve it after 8 s:" in ended.stderr
    assert "\n  w-2: bad cannot be loaded" in ended.stderr
    status = await headrace("status", model, settings=settings)
    assert "not yet by w-1, which serves revision 5 (v1 95%, v2 5%): bad cannot be loaded" in status.stdout
    assert (await headrace("rollback", model, "--wait", "--timeout", "60", settings=settings)).code == 0
    (status_document,) = (await headrace("status", model, "--json", settings=settings)).documents
    assert status_document["workers"] == [
        {"worker": name, "serves": True, "reason": "", "older_revision": None, "unloadable_target": ""}
        for name in ("w-1", "w-2")
    ]


async def test_the_wait_is_drawn_on_a_terminal(database: str) -> None:
    """Workers that serve it and workers behind are drawn in place; the outcome stays on the screen in words."""
    await apply(database, event("register", model=spec("v1")))
    registry = await Database.connect(database)
    await Heartbeats(registry).record(WorkerHeartbeat("w-ready", "boot", epoch=10**6))
    await Heartbeats(registry).record(WorkerHeartbeat("w-slow", "boot", epoch=1))
    async with registry.connection() as connection:
        # No worker renews them, however long the command takes to start.
        await connection.execute("UPDATE worker_heartbeats SET sent_at = now() + interval '1 hour'")
    await registry.close()
    settings = Settings.model_validate({"postgres_dsn": database})
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(HEADRACE, "promote", "m", "v1", "--direct", "--wait", "--timeout", "5"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=theirs,
        env=environment(settings) | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    drawn = await asyncio.wait_for(asyncio.to_thread(_all_of, ours), DEADLINE_SECONDS)
    os.close(ours)
    assert await process.wait() == 3
    assert "1/2" in drawn
    assert "w-ready: serves it" in drawn
    assert "w-slow: it serves epoch 1 of the registry, and not yet epoch 2" in drawn
    assert "applied, but 1 of 2 live workers does not serve it after 5 s:" in drawn


def _all_of(terminal: int) -> str:
    written = b""
    # Reading a terminal that no process has open any more fails.
    try:
        while chunk := os.read(terminal, 4096):
            written += chunk
    except OSError:
        pass
    return written.decode()

"""Loads that end their process, by processes that do."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from schemas.errors import ArtifactError, LoadPostponedError, LoadTimeoutError
from streams.serving.load_journal import (
    FORGET_SECONDS,
    LONGEST_WAIT_SECONDS,
    LoadJournal,
    UnfinishedLoads,
    postponed,
)
from tests.support.models.served_versions import spec_of

SPEC = spec_of("v1")
LOADS = """
import asyncio, sys
from pathlib import Path
from streams.serving.load_journal import LoadJournal
from tests.support.models.served_versions import spec_of
async def load():
    async with LoadJournal(Path(sys.argv[1])).attempt("m", spec_of("v1"), others_are_served=True) as begin:
        if sys.argv[2] == "loading":
            await begin()
        print(sys.argv[2], flush=True)
        await asyncio.Event().wait()
asyncio.run(load())
"""


async def load(folder: Path, error: BaseException | None = None, *, others_are_served: bool = True) -> None:
    async with LoadJournal(folder).attempt("m", SPEC, others_are_served=others_are_served) as begin:
        await begin()
        if error is not None:
            raise error


@contextmanager
def loading(folder: Path, step: str = "loading") -> Iterator[subprocess.Popen[bytes]]:
    """A process that loads the version, or downloads its file, until it is killed."""
    command = [sys.executable, "-c", LOADS, str(folder), step]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().decode() == f"{step}\n"
        yield process


def die_loading(folder: Path) -> None:
    """Load the version in a process that ends meanwhile."""
    with loading(folder) as process:
        process.kill()


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.*.*"))


async def test_a_load_leaves_no_file(tmp_path: Path) -> None:
    """Neither when it succeeds, nor when it fails or is wanted no more."""
    await load(tmp_path, others_are_served=False)
    with pytest.raises(ArtifactError):
        await load(tmp_path, ArtifactError("gone"))
    with pytest.raises(asyncio.CancelledError):
        await load(tmp_path, asyncio.CancelledError())
    assert files(tmp_path) == []


async def test_a_load_that_ends_its_process_waits_for_the_others_once(tmp_path: Path) -> None:
    """When it succeeds then, it is a version like others again."""
    die_loading(tmp_path)
    with pytest.raises(LoadPostponedError, match=r"1 load of it ended the process .* after the others"):
        await load(tmp_path, others_are_served=False)
    await load(tmp_path)
    assert files(tmp_path) == []
    await load(tmp_path, others_are_served=False)


async def test_a_process_that_ends_during_a_download_says_nothing_about_the_version(tmp_path: Path) -> None:
    """Its file is deleted by the next load."""
    with loading(tmp_path, "downloading") as process:
        process.kill()
    await load(tmp_path, others_are_served=False)
    assert files(tmp_path) == []


async def test_a_process_that_ended_during_a_load_is_remembered_through_a_download(tmp_path: Path) -> None:
    """The download for the second attempt ends its process too."""
    die_loading(tmp_path)
    with loading(tmp_path, "downloading") as process:
        with pytest.raises(LoadPostponedError, match="another process of this machine"):
            await load(tmp_path)
        process.kill()
    with pytest.raises(LoadPostponedError, match="1 load of it ended the process"):
        await load(tmp_path, others_are_served=False)
    await load(tmp_path)
    assert files(tmp_path) == []


async def test_it_waits_longer_after_each_attempt(tmp_path: Path) -> None:
    """One that took too long counts like one that ended the process."""
    die_loading(tmp_path)
    with pytest.raises(LoadTimeoutError):
        await load(tmp_path, LoadTimeoutError("too long"))
    with pytest.raises(LoadPostponedError, match=r"2 loads of it .* tried again in 30 s") as waits:
        await load(tmp_path)
    assert 0 < waits.value.retry_seconds <= 30


async def test_processes_that_died_together_count_as_one_attempt(tmp_path: Path) -> None:
    """As when a machine loses its power while all workers load."""
    with loading(tmp_path) as one, loading(tmp_path) as another:
        assert len(files(tmp_path)) == 2
        one.kill()
        another.kill()
    await load(tmp_path)
    assert files(tmp_path) == []


async def test_one_process_at_a_time_tries_it_again(tmp_path: Path) -> None:
    die_loading(tmp_path)
    async with LoadJournal(tmp_path).attempt("m", SPEC, others_are_served=True):
        with pytest.raises(LoadPostponedError, match="another process of this machine"):
            await load(tmp_path)
        async with LoadJournal(tmp_path).attempt("m", spec_of("v2"), others_are_served=False):
            """Another version is loaded meanwhile."""


async def test_old_files_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    die_loading(tmp_path)
    now = time.time()
    monkeypatch.setattr("streams.serving.load_journal.time.time", lambda: now + FORGET_SECONDS + 60)
    await load(tmp_path, others_are_served=False)
    assert files(tmp_path) == []


async def test_a_folder_that_cannot_be_written_is_reported_once(tmp_path: Path) -> None:
    """And the versions are loaded."""
    (tmp_path / "file").touch()
    journal = LoadJournal(tmp_path / "file" / "loads")
    with capture_logs() as logs:
        for _ in range(2):
            async with journal.attempt("m", SPEC, others_are_served=False):
                """It is loaded."""
    assert [line["event"] for line in logs] == ["loads are not recorded"]


@given(
    attempts=st.integers(2, 10_000),
    last_at=st.floats(0, 2e9),
    now=st.floats(0, 2e9),
)
def test_the_wait_is_bounded_whatever_the_clock_does(attempts: int, last_at: float, now: float) -> None:
    wait = postponed(UnfinishedLoads(attempts, last_at), others_are_served=True, now=now)
    assert wait is None or 0 < wait.retry_seconds <= LONGEST_WAIT_SECONDS
    after = postponed(UnfinishedLoads(attempts, last_at), others_are_served=True, now=last_at + 3601)
    assert after is None

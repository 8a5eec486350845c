"""The folder of model files: its limit, and several processes in it at once."""

import asyncio
import hashlib
import multiprocessing
import os
import random
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from workers.artifacts.folder import LOCK_NAME, ArtifactFolder
from workers.artifacts.sources import ArtifactSources
from workers.artifacts.store import ArtifactStore

SIZE_BYTES = 100_000


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Nine files of one size, each with another content."""
    paths = [tmp_path / f"{number}.onnx" for number in range(9)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([8, number]) * (SIZE_BYTES // 2))
    return paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kept(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/model.onnx")}


def in_folder(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LOCK_NAME}


async def fetch(folder: Path, paths: Iterable[Path], *, cache_bytes: int) -> None:
    """Fetch one file after the other; each must be there, whole, as long as it is used."""
    store = ArtifactStore(folder, ArtifactSources(), max_bytes=10**9, cache_bytes=cache_bytes)
    for path in paths:
        expected = digest(path)
        async with store.fetched(path.as_uri(), expected) as copy:
            # Others make room meanwhile.
            await asyncio.sleep(0)
            assert digest(copy) == expected


async def test_what_was_unused_longest_goes_first(models: list[Path], folder: Path) -> None:
    """A file that is used again is as good as new; the limit holds to the byte."""
    await fetch(folder, models[:3], cache_bytes=3 * SIZE_BYTES)
    await fetch(folder, [models[0], models[3]], cache_bytes=3 * SIZE_BYTES)
    assert kept(folder) == {digest(models[number]) for number in (0, 2, 3)}
    assert in_folder(folder) == kept(folder)


async def test_the_one_just_fetched_stays(models: list[Path], folder: Path) -> None:
    """Even where it is more than the whole cache may have; all others go."""
    await fetch(folder, models[:3], cache_bytes=1)
    assert kept(folder) == {digest(models[2])}


async def test_none_that_is_in_use_goes(models: list[Path], folder: Path) -> None:
    """It counts, though, so others go for it."""
    first = digest(models[0])
    store = ArtifactStore(folder, ArtifactSources(), max_bytes=10**9, cache_bytes=2 * SIZE_BYTES)
    async with store.fetched(models[0].as_uri(), first):
        await fetch(folder, models[1:4], cache_bytes=2 * SIZE_BYTES)
        assert kept(folder) == {first, digest(models[3])}
    await fetch(folder, models[4:5], cache_bytes=2 * SIZE_BYTES)
    assert kept(folder) == {digest(models[3]), digest(models[4])}


def test_what_a_dead_process_left_goes(folder: Path) -> None:
    """After an hour without a change; a download in progress stays."""
    folder.mkdir()
    old, new = folder / "incoming-old", folder / "incoming-new"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    ArtifactFolder(folder, max_bytes=10**9).evict(keep=folder)
    assert in_folder(folder) == {new.name}


def test_what_another_process_put_there_first_is_held(models: list[Path], folder: Path) -> None:
    """It may be in use there already; one that was found to be another file is replaced."""
    cache = ArtifactFolder(folder, max_bytes=10**9)
    first, second = cache.slot("digest"), cache.slot("digest")
    assert not first.acquire()
    assert not second.acquire()
    contents = [model.read_bytes() for model in models[:3]]
    first.store(models[0])
    second.store(models[1])
    assert first.read(SIZE_BYTES) == second.read(SIZE_BYTES) == contents[0]
    second.store(models[2])
    assert second.read(SIZE_BYTES) == contents[2]
    first.release()
    second.release()


def _fetch_often(folder: Path, models: list[Path], seed: int, cache_bytes: int) -> None:
    """In a process of its own."""
    order = random.Random(seed).choices(models, k=200)
    asyncio.run(fetch(folder, order, cache_bytes=cache_bytes))


@pytest.mark.parametrize(("count", "room"), [(9, 3), (2, 1)])
def test_processes_share_a_folder(models: list[Path], folder: Path, count: int, room: int) -> None:
    """With room for less than they fetch: none misses a file that it uses, and the limit holds."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawning) as processes:
        running = [
            processes.submit(_fetch_often, folder, models[:count], seed, room * SIZE_BYTES)
            for seed in range(3)
        ]
        for each in running:
            each.result(timeout=100)
    assert 1 <= len(kept(folder)) <= room
    assert in_folder(folder) == kept(folder)

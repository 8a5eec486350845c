"""workers/artifacts/store.py: what is loaded is what was registered."""

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ArtifactError, UnavailableError
from tests.support.deadline import DEADLINE_SECONDS
from workers.artifacts.folder import LOCK_NAME
from workers.artifacts.port import CHUNK_BYTES, ArtifactSource, ArtifactStream
from workers.artifacts.sources import ArtifactSources
from workers.artifacts.store import ArtifactStore

CONTENT = b"a model"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
URI = "test://model"


def store(cache_dir: Path, source: ArtifactSource | None = None, **options: Any) -> ArtifactStore:
    """A store without effective limits, on one source or on local files."""
    limits = {"max_bytes": 2**40, "cache_bytes": 2**40} | options
    return ArtifactStore(cache_dir, ArtifactSources() if source is None else lambda _: source, **limits)


def fetched(uri: str, sha256: str, cache_dir: Path, **options: Any) -> Path:
    async def fetch() -> Path:
        async with store(cache_dir, **options).fetched(uri, sha256) as path:
            return path

    return asyncio.run(fetch())


def in_cache(cache_dir: Path) -> list[Path]:
    return [path for path in cache_dir.glob("*") if path.name != LOCK_NAME]


class Scripted:
    """A source with these chunks; unless `ends`, it then blocks."""

    def __init__(self, *chunks: bytes, total_bytes: int | None = None, ends: bool = True) -> None:
        self.uri = URI
        self.closed = False
        self._chunks, self._total_bytes, self._ends = chunks, total_bytes, ends

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[ArtifactStream, None]:
        try:
            yield ArtifactStream(self._total_bytes, self._given())
        finally:
            self.closed = True

    async def _given(self) -> AsyncGenerator[bytes, None]:
        for chunk in self._chunks:
            yield chunk
        if not self._ends:
            await asyncio.Event().wait()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "a model, v2%.onnx"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_the_copy_is_alone_and_verified(model: Path, cache_dir: Path) -> None:
    """The path is a copy in a folder without other files."""
    path = fetched(model.as_uri(), DIGEST, cache_dir)
    assert path.read_bytes() == CONTENT
    assert not path.samefile(model)
    assert list(path.parent.iterdir()) == [path]
    assert in_cache(cache_dir) == [path.parent]


def test_a_second_fetch_needs_no_source(model: Path, cache_dir: Path) -> None:
    """A stored file is used again, also when the source has vanished or changed."""
    path = fetched(model.as_uri(), DIGEST, cache_dir)
    model.unlink()
    assert fetched(model.as_uri(), DIGEST, cache_dir) == path


def test_a_changed_cache_is_replaced(model: Path, cache_dir: Path) -> None:
    """A stored file with another content is downloaded again."""
    path = fetched(model.as_uri(), DIGEST, cache_dir)
    path.write_bytes(b"another model")
    assert fetched(model.as_uri(), DIGEST, cache_dir).read_bytes() == CONTENT


def test_another_content_is_refused(model: Path, cache_dir: Path) -> None:
    """The message has both digests, and no file is stored."""
    model.write_bytes(b"another model")
    with pytest.raises(ArtifactError, match=DIGEST):
        fetched(model.as_uri(), DIGEST, cache_dir)
    assert in_cache(cache_dir) == []


def test_a_digest_cannot_lead_out_of_the_cache(model: Path, cache_dir: Path) -> None:
    """A digest that is a path reads and writes nothing."""
    with pytest.raises(ArtifactError):
        fetched(model.as_uri(), "../elsewhere", cache_dir)
    assert not (cache_dir.parent / "elsewhere").exists()


async def test_what_is_there_now_is_received_by_its_digest(model: Path, cache_dir: Path) -> None:
    """The digest of the current content is returned, and the file is stored under it."""
    async with store(cache_dir).received(model.as_uri()) as artifact:
        assert (artifact.sha256, artifact.size_bytes) == (DIGEST, len(CONTENT))
        assert artifact.path.read_bytes() == CONTENT
    async with store(cache_dir, Scripted()).fetched(URI, DIGEST) as path:
        assert path == artifact.path


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:secret@bucket/model.onnx",
        "s3://bucket-secret",
        "https://somebody:secret@example.test/model.onnx",
        "https://127.0.0.1/model.onnx?signature=secret",
        "/secret/model.onnx",
        "gs://secret/model.onnx",
        "file://otherhost/model.onnx",
        "file:model.onnx",
        "file:///model%00.onnx",
        "http://[secret",
        "",
    ],
)
def test_only_whole_uris_without_secrets(uri: str, cache_dir: Path) -> None:
    """The message says what to write, and does not quote credentials."""
    with pytest.raises(ArtifactError) as refusal:
        fetched(uri, DIGEST, cache_dir)
    assert "artifact_uri" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_what_is_no_file_is_refused(tmp_path: Path, cache_dir: Path) -> None:
    """A missing file, a folder, and a pipe, which would block."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(ArtifactError, match="is not a file on this machine"):
            fetched(path.as_uri(), DIGEST, cache_dir)


def test_a_cache_that_cannot_be_written_is_an_error_of_the_tree(model: Path) -> None:
    """The OSError becomes an ArtifactError."""
    with pytest.raises(ArtifactError, match=r"cannot be stored in .*Not a directory"):
        fetched(model.as_uri(), DIGEST, model / "cache")


@pytest.mark.parametrize("name", ["m.pkl", "m.pickle", "m.joblib", "m.pt", "M.PTH"])
def test_pickles_are_refused_by_name(name: str, tmp_path: Path, cache_dir: Path) -> None:
    """Before the file is read, with the reason and the alternative."""
    with pytest.raises(ArtifactError, match="runs the program inside it; export the model to ONNX"):
        fetched((tmp_path / name).as_uri(), DIGEST, cache_dir)


@pytest.mark.parametrize("beginning", [b"\x80\x02", b"\x80\x03", b"\x80\x04\x95", b"\x80\x05", b"PK\x03\x04"])
async def test_pickles_are_refused_by_content(beginning: bytes, cache_dir: Path) -> None:
    """With any name, and also with the registered digest."""
    content = beginning + b"..."
    with pytest.raises(ArtifactError, match=f"{URI} is a pickle.*export the model to ONNX"):
        async with store(cache_dir, Scripted(content)).fetched(URI, hashlib.sha256(content).hexdigest()):
            pass
    assert in_cache(cache_dir) == []


async def test_a_file_over_the_limit_is_refused_at_once_if_it_tells_its_size(cache_dir: Path) -> None:
    """No chunk is read."""
    source = Scripted(total_bytes=11, ends=False)
    with pytest.raises(ArtifactError, match=r"more than 10 bytes.*HEADRACE_ARTIFACT_MAX_BYTES"):
        async with store(cache_dir, source, max_bytes=10).received(URI):
            pass
    assert source.closed


async def test_a_file_that_grows_over_the_limit_is_given_up(cache_dir: Path) -> None:
    """With the chunk that exceeds it, and no file stays. A file of exactly the limit is accepted."""
    async with store(cache_dir, Scripted(b"12345", b"67890"), max_bytes=10).received(URI) as artifact:
        kept = artifact.path.parent
    source = Scripted(b"12345", b"67890", b"1", ends=False)
    with pytest.raises(ArtifactError, match="more than 10 bytes"):
        async with store(cache_dir, source, max_bytes=10).received(URI):
            pass
    assert source.closed
    assert in_cache(cache_dir) == [kept]


async def test_a_file_that_ends_early_may_be_whole_later(cache_dir: Path) -> None:
    """The error is UnavailableError, not a wrong digest."""
    with pytest.raises(UnavailableError, match="ended after 7 of 8 bytes"):
        async with store(cache_dir, Scripted(CONTENT, total_bytes=8)).fetched(URI, DIGEST):
            pass
    assert in_cache(cache_dir) == []


async def test_a_source_that_stalls_is_given_up(cache_dir: Path) -> None:
    """Before its first chunk, and after it."""

    class Silent(Scripted):
        @asynccontextmanager
        async def open(self) -> AsyncGenerator[ArtifactStream, None]:
            await asyncio.Event().wait()
            yield ArtifactStream(None, self._given())

    for source, told in ((Silent(), "did not respond"), (Scripted(CONTENT, ends=False), "stalled")):
        with pytest.raises(UnavailableError, match=rf"{told}.*within 0\.05 s"):
            async with store(cache_dir, source, stall_seconds=0.05).fetched(URI, DIGEST):
                pass
        assert in_cache(cache_dir) == []


async def test_a_download_has_a_limit(cache_dir: Path) -> None:
    """Whatever its source delivers meanwhile."""
    source = Scripted(CONTENT, ends=False)
    with pytest.raises(UnavailableError, match=r"was not received within 0\.05 s"):
        async with store(cache_dir, source, timeout_seconds=0.05).fetched(URI, DIGEST):
            pass
    assert source.closed
    assert in_cache(cache_dir) == []


async def test_a_cancelled_fetch_leaves_nothing(cache_dir: Path) -> None:
    """The cancellation is immediate, the source is closed, and no file stays."""
    source = Scripted(CONTENT, ends=False)
    began = asyncio.Event()

    async def fetch() -> None:
        async with store(cache_dir, source).fetched(URI, DIGEST, lambda *_: began.set()):
            pass

    fetching = asyncio.create_task(fetch())
    async with asyncio.timeout(DEADLINE_SECONDS):
        await began.wait()
        assert len(in_cache(cache_dir)) == 1
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
    assert source.closed
    assert in_cache(cache_dir) == []


async def test_a_fetch_that_is_cancelled_at_any_step_leaves_nothing(model: Path, cache_dir: Path) -> None:
    """The fetch is cancelled after each number of loop iterations until it completes."""
    for step in range(1000):
        fetching = asyncio.create_task(_fetch(model, cache_dir))
        for _ in range(step):
            # A turn of the loop, and the threads' time to get on between two of them.
            await asyncio.sleep(0)
            await asyncio.to_thread(lambda: None)
        if fetching.done():
            break
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        left = [path for path in in_cache(cache_dir) if path.name != DIGEST]
        assert left == [], step
    else:
        pytest.fail("it never came to an end")
    assert step > 1


async def _fetch(model: Path, cache_dir: Path) -> None:
    async with store(cache_dir).received(model.as_uri()):
        pass


async def test_progress_is_told_with_each_chunk(cache_dir: Path) -> None:
    """Bytes received and total; a stored file reports none."""
    told: list[tuple[int, int | None]] = []
    for total_bytes in (7, None, None):
        source = Scripted(b"a ", b"model", total_bytes=total_bytes)
        async with store(cache_dir, source).fetched(URI, DIGEST, lambda *each: told.append(each)) as path:
            pass
        if len(told) == 2:
            path.unlink()
    assert told == [(2, 7), (7, 7), (2, None), (7, None)]


async def test_a_file_is_never_whole_in_memory(tmp_path: Path, cache_dir: Path) -> None:
    """Neither during the download nor during verification."""
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(64 * CHUNK_BYTES)
    async with store(cache_dir).received(large.as_uri()) as artifact:
        pass
    tracemalloc.start()
    try:
        async with store(cache_dir).fetched(large.as_uri(), artifact.sha256):
            pass
        async with store(cache_dir).received(large.as_uri()):
            pass
        assert tracemalloc.get_traced_memory()[1] < 8 * CHUNK_BYTES
    finally:
        tracemalloc.stop()

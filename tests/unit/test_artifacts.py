"""workers/artifacts.py: what is loaded is what was registered."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from schemas.errors import ArtifactError
from workers.artifacts import fetch

CONTENT = b"a model"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def fetched(uri: str, sha256: str, cache_dir: Path) -> Path:
    return asyncio.run(fetch(uri, sha256, cache_dir))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "a model, v2%.onnx"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_the_copy_is_alone_and_verified(model: Path, cache_dir: Path) -> None:
    """The path is a copy in a folder with nothing else, and no other file stays in the cache."""
    path = fetched(model.as_uri(), DIGEST, cache_dir)
    assert path.read_bytes() == CONTENT
    assert not path.samefile(model)
    assert list(path.parent.iterdir()) == [path]
    assert list(cache_dir.iterdir()) == [path.parent]


def test_a_second_fetch_needs_no_source(model: Path, cache_dir: Path) -> None:
    """What is cached is used again, also when the source is gone or has changed."""
    path = fetched(model.as_uri(), DIGEST, cache_dir)
    model.unlink()
    assert fetched(model.as_uri(), DIGEST, cache_dir) == path


def test_a_changed_cache_is_replaced(model: Path, cache_dir: Path) -> None:
    """A cached file that somebody changed is not used but fetched again."""
    path = fetched(model.as_uri(), DIGEST, cache_dir)
    path.write_bytes(b"another model")
    assert fetched(model.as_uri(), DIGEST, cache_dir).read_bytes() == CONTENT


def test_another_content_is_refused(model: Path, cache_dir: Path) -> None:
    """A file that is not the registered one is named with both digests, and nothing is kept."""
    model.write_bytes(b"another model")
    with pytest.raises(ArtifactError, match=DIGEST):
        fetched(model.as_uri(), DIGEST, cache_dir)
    assert list(cache_dir.iterdir()) == []


def test_a_digest_cannot_lead_out_of_the_cache(model: Path, cache_dir: Path) -> None:
    """A digest that is a path fetches nothing and writes nothing."""
    with pytest.raises(ArtifactError):
        fetched(model.as_uri(), "../elsewhere", cache_dir)
    assert not (cache_dir.parent / "elsewhere").exists()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:secret@bucket/model.onnx",
        "https://somebody:secret@example.test/model.onnx",
        "/secret/model.onnx",
        "file://otherhost/model.onnx",
        "file:model.onnx",
        "file:///model%00.onnx",
        "http://[secret",
        "",
    ],
)
def test_only_absolute_file_uris(uri: str, cache_dir: Path) -> None:
    """Everything else is refused with what to write, and without the credentials in it."""
    with pytest.raises(ArtifactError) as refusal:
        fetched(uri, DIGEST, cache_dir)
    assert "artifact_uri" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_what_is_no_file_is_refused(tmp_path: Path, cache_dir: Path) -> None:
    """A missing file, a folder and a pipe (which would block) are refused."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(ArtifactError, match="is not a file here"):
            fetched(path.as_uri(), DIGEST, cache_dir)


def test_a_cache_that_cannot_be_written_is_an_error_of_the_tree(model: Path) -> None:
    """The folder's trouble is told as an ArtifactError."""
    with pytest.raises(ArtifactError, match="cannot be fetched"):
        fetched(model.as_uri(), DIGEST, model / "cache")

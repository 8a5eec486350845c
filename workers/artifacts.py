"""Model files: fetched, verified, and kept where the loader finds exactly what was verified.

A file is copied into a folder of its own, named by its SHA-256, and hashed on the way; what is
loaded is that copy. Nothing else is in the folder, so a model that refers to data beside itself
does not load: the digest that an operator registered covers all that a version is made of. A
model is one file.

Only the loader of the declared framework ever reads the file. Nothing is unpickled or imported.
"""

import asyncio
import hashlib
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from schemas.errors import ArtifactError

_FILE_NAME = "model.onnx"


async def fetch(uri: str, sha256: str, cache_dir: Path) -> Path:
    """The path of a local copy of `uri` whose content has this SHA-256 (lower-case hex).

    Raises ArtifactError when the scheme is not `file`, the file cannot be read or kept, or its
    content is another.
    """
    return await asyncio.to_thread(_fetch, uri, sha256, cache_dir)


def _fetch(uri: str, sha256: str, cache_dir: Path) -> Path:
    target = cache_dir / sha256 / _FILE_NAME
    try:
        source = _path(uri)
        # What is in the cache may have been changed since: it is verified at each use.
        if target.is_file() and _digest(target) == sha256:
            return target
        if not source.is_file():
            raise ArtifactError(f"{uri} is not a file here")
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        incoming = _copy(source, cache_dir)
        try:
            actual = _digest(incoming)
            if actual != sha256:
                raise ArtifactError(f"{uri} has SHA-256 {actual}, but {sha256} is registered")
            target.parent.mkdir(exist_ok=True)
            incoming.replace(target)
        finally:
            incoming.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"{uri} cannot be fetched: {error}") from None
    return target


def _path(uri: str) -> Path:
    try:
        parts = urlsplit(uri)
        path = Path(unquote(parts.path))
    except ValueError:
        raise ArtifactError("artifact_uri is not a URI") from None
    if parts.scheme != "file":
        # The rest is withheld: it may hold credentials.
        raise ArtifactError(f"artifact_uri has scheme {parts.scheme!r}; write file:///PATH")
    if parts.netloc not in ("", "localhost") or not path.is_absolute() or "\0" in str(path):
        raise ArtifactError(f"artifact_uri {uri} is not an absolute path on this machine; write file:///PATH")
    return path


def _copy(source: Path, directory: Path) -> Path:
    with (
        source.open("rb") as original,
        tempfile.NamedTemporaryFile(dir=directory, prefix="incoming-", delete=False) as copy,
    ):
        shutil.copyfileobj(original, copy)
    return Path(copy.name)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

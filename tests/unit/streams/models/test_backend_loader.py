"""streams/models/backend_loader.py: what has happened when a load begins."""

import hashlib
from pathlib import Path

import pytest

from schemas.errors import ArtifactError
from schemas.models import Framework
from streams.config.settings import Settings
from streams.models.backend_loader import BackendLoader
from tests.support.models.served_versions import spec_of


async def test_a_load_begins_when_the_file_was_downloaded(tmp_path: Path) -> None:
    """A process that ends before is not ended by the model."""
    model = tmp_path / "model.onnx"
    model.write_bytes(b"not a model")
    spec = spec_of("v1").model_copy(
        update={
            "framework": Framework.ONNX,
            "artifact_uri": model.as_uri(),
            "artifact_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        }
    )
    steps: list[str] = []

    async def begin() -> None:
        steps.append("load")

    load = BackendLoader(Settings(artifact_dir=str(tmp_path / "cache")), lambda *_: steps.append("download"))
    with pytest.raises(ArtifactError):
        await load("m", spec, begin)
    assert steps == ["download", "load"]

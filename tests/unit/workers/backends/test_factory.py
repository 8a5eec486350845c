"""workers/backends/factory.py: where a version's model is at its server."""

from typing import Any

import pytest

from schemas.errors import ArtifactError, SetupError
from schemas.models import ModelSpec
from tests.support.promotions.events import spec
from workers.backends.factory import model_url, remote_backend
from workers.network.endpoints import Outbound


def spec_of(framework: str, **fields: Any) -> ModelSpec:
    return ModelSpec.model_validate(spec("v1", framework=framework, **fields))


@pytest.mark.parametrize(
    ("framework", "server", "path"),
    [
        ("open-inference", {"model": "m"}, "/v2/models/m"),
        ("open-inference", {"model": "m", "version": "3"}, "/v2/models/m/versions/3"),
        ("tensorflow", {"model": "m"}, "/v1/models/m"),
        ("tensorflow", {"model": "m", "version": "3"}, "/v1/models/m/versions/3"),
        ("torchserve", {"model": "m"}, "/predictions/m"),
        ("torchserve", {"model": "m", "version": "3.0"}, "/predictions/m/3.0"),
    ],
)
def test_the_path_comes_from_the_names(framework: str, server: dict[str, str], path: str) -> None:
    """It is appended to the server's address, with or without a slash or path at its end."""
    for base in ("http://127.0.0.1:8080", "http://127.0.0.1:8080/", "http://127.0.0.1:8080/gateway"):
        assert model_url(spec_of(framework, endpoint=base, server=server)) == base.rstrip("/") + path


@pytest.mark.parametrize("framework", ["open-inference", "tensorflow", "torchserve"])
def test_without_names_the_endpoint_is_the_models_own(framework: str) -> None:
    """It is used unchanged."""
    url = "http://127.0.0.1:8080/some/where"
    assert model_url(spec_of(framework, endpoint=url)) == url


@pytest.mark.parametrize("name", ["../admin", "a/b", "a?b", "a%2fb", ".", "..", "a b", "", "\u00e4"])
def test_names_lead_nowhere_else(name: str) -> None:
    """Registration refuses a name that is not a single path segment."""
    for server in ({"model": name}, {"model": "m", "version": name}):
        with pytest.raises(ValueError):
            spec_of("tensorflow", endpoint="http://127.0.0.1:8080", server=server)


@pytest.mark.parametrize("framework", ["open-inference", "tensorflow", "torchserve"])
async def test_every_framework_checks_its_endpoint(framework: str) -> None:
    """Before any call."""
    with pytest.raises(ArtifactError, match="HEADRACE_BACKEND_HOSTS"):
        remote_backend(spec_of(framework, endpoint="http://10.0.0.1:8080"), Outbound())
    with pytest.raises(SetupError, match="HEADRACE_BACKEND_NETWORKS"):
        remote_backend(spec_of(framework, endpoint="http://127.0.0.1:1"), Outbound(networks=["nowhere"]))
    await remote_backend(spec_of(framework, endpoint="http://127.0.0.1:1/m"), Outbound()).close()


async def test_tensorflow_needs_a_path() -> None:
    """An address followed by `:predict` is not a URL."""
    for endpoint in ("http://127.0.0.1:1", "http://127.0.0.1:1/"):
        with pytest.raises(ArtifactError, match=r"name server\.model"):
            remote_backend(spec_of("tensorflow", endpoint=endpoint), Outbound())
        named = spec_of("tensorflow", endpoint=endpoint, server={"model": "m"})
        await remote_backend(named, Outbound()).close()


def test_onnx_has_no_server() -> None:
    """It is loaded in process."""
    version = spec_of(
        "onnx", endpoint="http://127.0.0.1:1", artifact_uri="file:///nowhere", artifact_sha256="0" * 64
    )
    with pytest.raises(ArtifactError, match="no model server"):
        remote_backend(version, Outbound())

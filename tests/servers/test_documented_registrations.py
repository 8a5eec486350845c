"""The registrations of docs/backends.md, word for word but for the address, each on the servers it is for."""

import re
from pathlib import Path

import orjson

from registry.registration import check_version
from schemas.json_schema import compile_schema
from schemas.models import ModelSpec
from tests.servers.kinds import Triton
from tests.servers.served import Served
from workers.backends.factory import remote_backend
from workers.network.endpoints import Outbound

_PAGE = Path(__file__).parents[2] / "docs" / "backends.md"


def documented(served: Served) -> ModelSpec:
    """The registration for this server, at its address."""
    blocks = re.findall(r"```json\n(\{.*?\n\})\n```", _PAGE.read_text(), flags=re.DOTALL)
    documents = [orjson.loads(block)["model"] for block in blocks if '"model_name"' in block]
    is_triton = isinstance(served.server, Triton)
    (document,) = [
        each
        for each in documents
        if each["framework"] == served.api and each["version"].endswith("triton") == is_triton
    ]
    url = served.server.model_url(served.api, "recommender", None)
    host_and_port = re.match(r"http://[^/]+", url)
    assert host_and_port is not None
    return ModelSpec.model_validate(document | {"endpoint": host_and_port[0]})


async def test_what_is_documented_is_served(served: Served) -> None:
    """It is taken by the registry, loads, and predicts what its own schema promises."""
    spec = documented(served)
    check_version(spec)
    assert spec.example is not None
    backend = remote_backend(spec, Outbound())
    try:
        await backend.warm()
        predictions = await backend.infer([spec.example.input] * 3, timeout_seconds=30)
    finally:
        await backend.close()
    promises = compile_schema(spec.output_schema)
    assert len(predictions) == 3
    assert all(map(promises.is_valid, predictions))
    (expected,) = served.recommended([17])
    items = [each if isinstance(each, list) else each["items"] for each in predictions]
    assert items == [expected["items"]] * 3

"""kcat and kafkajs as docs/clients.md shows them: what nobody here wrote sends, and reads the response."""

import asyncio
import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from tests.clients.conftest import Serving
from tests.clients.environments import Environments
from tests.support.models.served_model import predictions_of

SECONDS = 60.0


def request_of(serving: Serving, x: int) -> dict[str, Any]:
    return {
        "request_id": f"r{x}",
        "model_name": serving.model,
        "user_id": "u1",
        "input": {"x": x},
    }


async def test_kafkajs(environments: Environments, serving: Serving) -> None:
    """Compressed with gzip; the response is in the partition of the request, with its key and correlation id."""
    if environments.node is None:
        pytest.skip("there is no Node.js with npm")
    settings, request = serving.settings, request_of(serving, 5)
    arguments = [settings.kafka_bootstrap, settings.topic_requests, settings.topic_responses]
    told = await run(
        [environments.node, environments.javascript / "ask.mjs", *arguments, json.dumps(request)]
    )
    response = json.loads(told)
    assert response["value"]["predictions"] == predictions_of("v1", 5)
    assert response["partition"] == response["sent"]
    assert response["key"] == "u1"
    assert response["headers"]["kafka_correlationId"] == "r5"


async def test_kcat(environments: Environments, serving: Serving) -> None:
    """With every compression of librdkafka."""
    if environments.kcat is None:
        pytest.skip("there is no kcat")
    settings, codecs = serving.settings, ["none", "gzip", "snappy", "lz4", "zstd"]
    kcat = [environments.kcat, "-b", settings.kafka_bootstrap]
    for x, codec in enumerate(codecs):
        produce = [
            "-P",
            "-t",
            settings.topic_requests,
            "-k",
            "u1",
            "-H",
            f"kafka_correlationId={codec}",
            "-z",
            codec,
        ]
        await run([*kcat, *produce], json.dumps(request_of(serving, x)), environments.kcat_variables)
    consume = ["-C", "-t", settings.topic_responses, "-o", "beginning", "-c", str(len(codecs)), "-J"]
    told = await run([*kcat, *consume], variables=environments.kcat_variables)
    responses = {}
    for record in map(json.loads, told.splitlines()):
        headers = dict(zip(record["headers"][::2], record["headers"][1::2], strict=True))
        responses[headers["kafka_correlationId"]] = json.loads(record["payload"])["predictions"]
        assert record["key"] == "u1"
    assert responses == {codec: predictions_of("v1", x) for x, codec in enumerate(codecs)}


async def run(command: list[Any], text: str = "", variables: Mapping[str, str] | None = None) -> str:
    ended = await asyncio.to_thread(
        subprocess.run,
        [str(part) for part in command],
        input=text,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout

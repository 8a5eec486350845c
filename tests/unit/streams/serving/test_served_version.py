"""streams/serving/served_version.py: the calls of a loaded version, and those of one that could not be loaded."""

import asyncio
from typing import Any

import pytest

from schemas.errors import BackendUnavailableError
from schemas.models import Framework
from streams.serving.route_table import cache_prefix_of
from streams.serving.served_version import ONNX_BATCH, SERVER_BATCH, served_version, unloaded_version
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend, RecordingMeter, outcomes_of, spec_of
from workers.calls.health import BREAKER


@pytest.mark.parametrize(
    ("fields", "takes_one", "largest"),
    [
        ({}, False, ONNX_BATCH),
        ({"max_batch": 8}, False, 8),
        ({"framework": Framework.TENSORFLOW}, False, SERVER_BATCH),
        ({"max_batch": 8}, True, 1),
    ],
)
async def test_a_framework_has_its_batches(fields: dict[str, Any], takes_one: bool, largest: int) -> None:
    """The version may say how many, unless its backend takes single examples."""
    backend = RecordingBackend()
    backend.takes_one = takes_one
    spec = spec_of("v1").model_copy(update=fields)
    version = served_version("m", spec, backend, RecordingMeter())
    # Batches grow up to it.
    await outcomes_of(version.dispatcher, [{"x": 1}] * (8 * largest))
    assert max(len(call) for call in backend.calls) == largest
    assert version.is_loaded


async def test_a_version_that_could_not_be_loaded_fails_each_call() -> None:
    """At once, whatever its schemas are, and each time with the reason: no circuit breaker spares a server."""
    spec = spec_of("v1").model_copy(update={"input_schema": {"type": "no-such-type"}})
    version = unloaded_version("m", spec, "is not loaded on this worker")
    assert not version.is_loaded
    assert version.cache_prefix == cache_prefix_of("m", spec)
    assert version.input_is_valid({"x": 1})
    for _ in range(BREAKER.failures + 1):
        errors = await asyncio.wait_for(outcomes_of(version.dispatcher, [{"x": 1}] * 2), DEADLINE_SECONDS)
        assert [(type(error), error.message) for error in errors] == [
            (BackendUnavailableError, "v1 is not loaded on this worker")
        ] * 2
    assert version.dispatcher.least_wait_seconds() == 0
    await version.dispatcher.close()

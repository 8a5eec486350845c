"""Models behind a server that speaks the Open Inference Protocol, version 2, over HTTP with JSON.

A version's `endpoint` is the model's own URL, `http://HOST:PORT/v2/models/NAME[/versions/V]`:
`GET` on it gives the metadata, `POST` to its `/infer` the predictions. What the server answers is
read by its content, whatever its content type says.
"""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from schemas.errors import ArtifactError, BackendFailedError, BackendUnavailableError, UnavailableError
from schemas.events import JsonObject
from workers.model_server import CALLS_IN_FLIGHT, MAX_RESPONSE_BYTES, ModelServer
from workers.open_inference_messages import excerpt, read_metadata, read_response, write_request
from workers.tensors import TensorSpec, alike

MAX_BATCH = 256
_WARM_SECONDS = 5.0
# What servers and gateways say when nobody worked on the request.
_UNAVAILABLE = frozenset({429, 502, 503, 504})


class OpenInferenceBackend:
    """One model of a server; `warm` learns its inputs and comes before `infer`.

    A batch goes out in calls of at most `max_batch` examples, `calls_in_flight` at once. Raises
    ArtifactError for an endpoint that `workers/endpoints.py` does not allow.
    """

    def __init__(
        self,
        endpoint: str,
        input_schema: JsonObject,
        *,
        allowed_hosts: Sequence[str] = (),
        max_batch: int = MAX_BATCH,
        calls_in_flight: int = CALLS_IN_FLIGHT,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._server = ModelServer(
            endpoint, allowed_hosts, calls_in_flight=calls_in_flight, max_response_bytes=max_response_bytes
        )
        self._input_schema = input_schema
        self._max_batch = max_batch
        self._inputs: list[TensorSpec] = []
        self._request_ids = map(str, itertools.count(1))

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        """See `workers/backend.py`; when one of several calls fails, the batch fails."""
        if not self._inputs:
            raise BackendUnavailableError("the model server was not asked yet what inputs the model has")
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._infer(inputs)
        except TimeoutError:
            raise BackendUnavailableError(f"no prediction within {timeout_seconds:g} s") from None

    async def warm(self) -> None:
        """Learn what inputs the model has, from its server or else from the input schema.

        Raises UnavailableError when the server does not answer, ArtifactError when it has no such
        model or nothing tells the types of its inputs.
        """
        try:
            async with asyncio.timeout(_WARM_SECONDS):
                status, body = await self._server.call("GET", "")
        except TimeoutError:
            raise UnavailableError(f"no metadata from the model server within {_WARM_SECONDS:g} s") from None
        except (BackendUnavailableError, BackendFailedError) as error:
            raise UnavailableError(f"no metadata: {error}") from None
        if status in _UNAVAILABLE:
            raise UnavailableError(f"no metadata: {_answer(status, body)}")
        if status == 404:
            raise ArtifactError(f"{self._server.url} is no model of its server: {_answer(status, body)}")
        self._inputs = read_metadata(body if status == 200 else b"{}", self._input_schema)

    async def close(self) -> None:
        """Close the connections; `infer` fails from now on. Idempotent."""
        await self._server.close()

    async def _infer(self, inputs: Sequence[JsonObject]) -> list[Any]:
        calls = [
            indices[start : start + self._max_batch]
            for indices in alike(self._inputs, inputs)
            for start in range(0, len(indices), self._max_batch)
        ]
        if len(calls) == 1:
            return await self._infer_alike(inputs)
        predictions: list[Any] = [None] * len(inputs)

        async def infer_some(indices: list[int]) -> None:
            answers = await self._infer_alike([inputs[index] for index in indices])
            for index, answer in zip(indices, answers, strict=True):
                predictions[index] = answer

        try:
            async with asyncio.TaskGroup() as group:
                for indices in calls:
                    group.create_task(infer_some(indices))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return predictions

    async def _infer_alike(self, inputs: Sequence[JsonObject]) -> list[Any]:
        request_id = next(self._request_ids)
        content = write_request(request_id, self._inputs, inputs)
        status, body = await self._server.call("POST", "/infer", content)
        if status in _UNAVAILABLE:
            raise BackendUnavailableError(_answer(status, body))
        if status != 200:
            raise BackendFailedError(_answer(status, body))
        return read_response(body, request_id, len(inputs))


def _answer(status: int, body: bytes) -> str:
    return f"the model server answered {status}: {excerpt(body)}"

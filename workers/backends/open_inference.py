"""Backend of servers with the Open Inference Protocol, version 2, over HTTP with JSON.

The model's URL is `http://HOST:PORT/v2/models/NAME[/versions/V]`: `GET` returns its metadata, and `POST` to
`/infer` below it returns predictions.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import BackendTimeoutError, BackendUnavailableError
from schemas.events import JsonObject
from workers.backends.description import ModelDescription
from workers.backends.model_server import ModelServer
from workers.backends.open_inference_messages import (
    read_description,
    read_metadata,
    read_response,
    write_request,
)
from workers.backends.responses import OK, raise_unless_found
from workers.backends.tensors import TensorSpec, alike

_WARM_SECONDS = 5.0


class OpenInferenceBackend:
    """One model of a server; `warm` determines its inputs and must precede `infer`.

    The inputs are `declared` by the version, else those of the server's metadata, else the properties of
    `input_schema`. `outputs` are the names of the chosen outputs by their keys in the prediction. `content_type` is a
    parameter of each request.
    """

    takes_one = False

    def __init__(
        self,
        server: ModelServer,
        input_schema: JsonObject,
        *,
        declared: Sequence[TensorSpec] = (),
        outputs: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> None:
        self._server = server
        self._input_schema = input_schema
        self._declared = declared
        self._outputs = outputs
        self._content_type = content_type
        self._inputs: Sequence[TensorSpec] = ()
        self._request_ids = map(str, itertools.count(1))

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        """See `workers/backends/port.py`. One call for each set of sizes in open dimensions."""
        if not self._inputs:
            raise BackendUnavailableError("the inputs of the model are unknown until `warm`")
        deadline_loop_seconds = asyncio.get_running_loop().time() + timeout_seconds
        try:
            async with asyncio.timeout(timeout_seconds):
                groups = alike(self._inputs, inputs)
                if len(groups) == 1:
                    return await self._infer_alike(inputs, deadline_loop_seconds)
                return await self._infer_groups(inputs, groups, deadline_loop_seconds)
        except TimeoutError:
            raise BackendTimeoutError(f"no prediction within {timeout_seconds:g} s") from None

    async def warm(self) -> None:
        """Determine the model's inputs.

        Raises UnavailableError when the server does not answer or has a fault, ArtifactError when it does not
        have the model, refuses access to it, or the types of its inputs cannot be determined.
        """
        status, body = await self._server.look(within_seconds=_WARM_SECONDS)
        raise_unless_found(self._server.url, status, body)
        self._inputs = self._declared or read_metadata(body if status == OK else b"{}", self._input_schema)

    async def describe(self) -> ModelDescription | None:
        """See `workers/backends/port.py`. The description comes from the server's metadata."""
        status, body = await self._server.look(within_seconds=_WARM_SECONDS)
        return read_description(body, self._declared, self._outputs) if status == OK else None

    async def close(self) -> None:
        """Close the connections; `infer` raises from now on. Idempotent."""
        await self._server.close()

    async def _infer_groups(
        self, inputs: Sequence[JsonObject], groups: Sequence[Sequence[int]], deadline_loop_seconds: float
    ) -> list[Any]:
        predictions: list[Any] = [None] * len(inputs)

        async def infer_group(indices: Sequence[int]) -> None:
            answers = await self._infer_alike([inputs[index] for index in indices], deadline_loop_seconds)
            for index, answer in zip(indices, answers, strict=True):
                predictions[index] = answer

        try:
            async with asyncio.TaskGroup() as calls:
                for indices in groups:
                    calls.create_task(infer_group(indices))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return predictions

    async def _infer_alike(self, inputs: Sequence[JsonObject], deadline_loop_seconds: float) -> list[Any]:
        request_id = next(self._request_ids)
        content = write_request(request_id, self._inputs, inputs, self._outputs, self._content_type)
        body = await self._server.predict("/infer", content, deadline_loop_seconds=deadline_loop_seconds)
        return read_response(body, request_id, len(inputs), self._outputs)

"""Backend of TensorFlow Serving's REST interface, which is also KServe's version 1.

The model's URL is `http://HOST:PORT/v1/models/NAME[/versions/V]`: `GET` returns its state, and `POST` with
the suffix `:predict` returns predictions.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import BackendFailedError, BackendTimeoutError, UnavailableError
from schemas.events import JsonObject
from schemas.json_schema import Validator
from schemas.models import RequestForm
from workers.backends.description import ModelDescription
from workers.backends.model_server import ModelServer
from workers.backends.responses import OK, raise_unless_found
from workers.backends.tensorflow_messages import read_description, read_response, read_status, write_request

_WARM_SECONDS = 5.0


class TensorflowBackend:
    """One model of a server.

    For a version with a mapping, `tensors` are the names of its inputs by the keys of `input`, `outputs`
    the names of its outputs by the keys of a prediction, and `fits` validates inputs against its tensors.
    """

    def __init__(
        self,
        server: ModelServer,
        *,
        form: RequestForm = RequestForm.ROW,
        signature_name: str | None = None,
        tensors: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
        fits: Validator | None = None,
    ) -> None:
        self._server = server
        self._form = form
        self._signature_name = signature_name
        self._tensors = tensors
        self._outputs = outputs
        self._fits = fits

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        """See `workers/backends/port.py`. One call."""
        if not inputs:
            return []
        if self._fits is not None and not all(map(self._fits.is_valid, inputs)):
            raise BackendFailedError("an input does not fit the tensors of the version's mapping")
        content = write_request(self._form, self._signature_name, self._tensors, inputs)
        deadline_loop_seconds = asyncio.get_running_loop().time() + timeout_seconds
        try:
            async with asyncio.timeout(timeout_seconds):
                body = await self._server.predict(
                    ":predict", content, deadline_loop_seconds=deadline_loop_seconds
                )
        except TimeoutError:
            raise BackendTimeoutError(f"no prediction within {timeout_seconds:g} s") from None
        return read_response(body, len(inputs), self._outputs)

    async def warm(self) -> None:
        """Check that the server has the model and serves it; raises UnavailableError and ArtifactError."""
        status, body = await self._server.look(within_seconds=_WARM_SECONDS)
        raise_unless_found(self._server.url, status, body)
        reason = read_status(body) if status == OK else None
        if reason is not None:
            raise UnavailableError(f"{self._server.url} is not served yet: {reason}")

    async def describe(self) -> ModelDescription | None:
        """See `workers/backends/port.py`. It comes from the signature in `/metadata`, which some servers lack."""
        status, body = await self._server.look("/metadata", within_seconds=_WARM_SECONDS)
        if status != OK:
            return None
        return read_description(body, self._signature_name, self._tensors, self._outputs)

    async def close(self) -> None:
        """Close the connections; `infer` raises from now on. Idempotent."""
        await self._server.close()

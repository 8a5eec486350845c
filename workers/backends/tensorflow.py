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
from workers.backends.tensors import TensorSpec, misfit_of

_WARM_SECONDS = 5.0


class TensorflowBackend:
    """One model of a server.

    For a version with a mapping, `declared` are its tensors, which `fits` validates, and `outputs` the names of its
    outputs by the keys of a prediction.
    """

    takes_one = False

    def __init__(
        self,
        server: ModelServer,
        *,
        form: RequestForm = RequestForm.ROW,
        signature_name: str | None = None,
        declared: Sequence[TensorSpec] = (),
        fits: Validator | None = None,
        outputs: Mapping[str, str] | None = None,
    ) -> None:
        self._server = server
        self._form = form
        self._signature_name = signature_name
        self._declared = declared
        self._fits = fits
        self._tensors = {spec.key: spec.name for spec in declared} or None
        self._nullable = frozenset(spec.key for spec in declared if spec.takes_null)
        self._base64 = frozenset(spec.key for spec in declared if spec.is_base64)
        self._outputs = outputs

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        """See `workers/backends/port.py`. One call."""
        if not inputs:
            return []
        if self._fits is not None:
            self._refuse_misfits(self._fits, inputs)
        content = write_request(
            self._form,
            self._signature_name,
            self._tensors,
            inputs,
            nullable=self._nullable,
            base64=self._base64,
        )
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

    def _refuse_misfits(self, fits: Validator, inputs: Sequence[JsonObject]) -> None:
        for example in inputs:
            if not fits.is_valid(example):
                reason = misfit_of(self._declared, example)
                raise BackendFailedError(reason or "the input does not fit the version's mapping")

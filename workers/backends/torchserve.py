"""Backend of TorchServe.

The model's URL is `http://HOST:PORT/predictions/NAME[/V]`. A call has one example, the unchanged `input` of
a request, and the response is its prediction; TorchServe batches concurrent calls itself. Its status 503
reports a fault of the model's handler, so the request may have been processed.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from schemas.errors import BackendTimeoutError
from schemas.events import JsonObject
from schemas.wire import encode
from workers.backends.model_server import ModelServer
from workers.backends.responses import fail_non_json, raise_unless_found, read_value

FAULTS = frozenset({503})
_WARM_SECONDS = 5.0


class TorchServeBackend:
    """One model of a server; `example` is an input for `warm`."""

    takes_one = True

    def __init__(self, server: ModelServer, *, example: JsonObject | None = None) -> None:
        self._server = server
        self._example = example

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        """See `workers/backends/port.py`. One concurrent call for each input."""
        deadline_loop_seconds = asyncio.get_running_loop().time() + timeout_seconds
        try:
            async with asyncio.timeout(timeout_seconds):
                if len(inputs) == 1:
                    return [await self._predict(inputs[0], deadline_loop_seconds)]
                async with asyncio.TaskGroup() as calls:
                    tasks = [
                        calls.create_task(self._predict(value, deadline_loop_seconds)) for value in inputs
                    ]
        except TimeoutError:
            raise BackendTimeoutError(f"no prediction within {timeout_seconds:g} s") from None
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def warm(self) -> None:
        """Predict the example; without one no call is made, since any other input could fail.

        Raises UnavailableError when the server does not answer or has a fault, ArtifactError when it lacks the
        model, or refuses the example or the access to it.
        """
        if self._example is None:
            return
        status, body = await self._server.look(
            content=orjson.dumps(self._example), within_seconds=_WARM_SECONDS
        )
        raise_unless_found(self._server.url, status, body)

    async def describe(self) -> None:
        """See `workers/backends/port.py`. TorchServe has no description of a handler's inputs and outputs."""

    async def close(self) -> None:
        """Close the connections; `infer` raises from now on. Idempotent."""
        await self._server.close()

    async def _predict(self, example: JsonObject, deadline_loop_seconds: float) -> Any:
        content = encode(example)
        body = await self._server.predict("", content, deadline_loop_seconds=deadline_loop_seconds)
        return fail_non_json([read_value(body, allow_non_finite=True)], body)[0]

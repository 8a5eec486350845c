"""The port to whatever computes predictions. One implementation a file."""

from collections.abc import Sequence
from typing import Any, Protocol

from schemas.events import JsonObject
from workers.backends.description import ModelDescription


class Backend(Protocol):
    """One loaded model version.

    The rule between JSON and tensors (`../docs/backends.md`): the keys of an input are the model's
    input names, each value one example without the batch dimension; a prediction is the one
    output's value for that example, or an object by output name where there are several.
    """

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        """Predict for each input, in order: as many JSON values as inputs, within the timeout.

        Raises BackendUnavailableError or BackendFailedError for the whole batch.
        """
        ...

    async def warm(self) -> None:
        """Make the first `infer` as fast as the next; raises ArtifactError or UnavailableError."""
        ...

    async def close(self) -> None:
        """Let go of sessions, pools and threads. Idempotent."""
        ...


class DescribedBackend(Backend, Protocol):
    """A backend that is asked about its model too, before the version is registered."""

    async def describe(self) -> ModelDescription | None:
        """What the model says of itself, None where it does not tell; comes after `warm`.

        Raises UnavailableError.
        """
        ...

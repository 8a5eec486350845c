"""The port of everything that computes predictions. Each implementation has a file."""

from collections.abc import Sequence
from typing import Any, Protocol

from schemas.events import JsonObject
from workers.backends.description import ModelDescription


class Backend(Protocol):
    """One loaded model version.

    The mapping between JSON and tensors is in `docs/backends.md`: the keys of an input are the model's
    input names, and each value is one example without the batch dimension. A prediction is the value of
    the only output for that example, or an object by output name when there are several outputs.
    """

    @property
    def takes_one(self) -> bool:
        """Whether the model takes one example at a time, so that a call should not have more."""
        ...

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        """One prediction for each input, in order, as JSON values, within the timeout.

        A result that JSON cannot represent is a NonFiniteResultError in the prediction's place.
        Raises BackendUnavailableError or BackendFailedError for the whole batch; BackendTimeoutError when the
        time is over, and BackendTooLargeError when the call is too large, which both may be due to the size of the
        batch.
        """
        ...

    async def warm(self) -> None:
        """Prepare the model for `infer`; raises ArtifactError or UnavailableError."""
        ...

    async def close(self) -> None:
        """Close sessions, connections and threads; `infer` then raises BackendUnavailableError. Idempotent."""
        ...


class DescribedBackend(Backend, Protocol):
    """A backend that can describe its model, before the version is registered."""

    async def describe(self) -> ModelDescription | None:
        """The model's inputs and outputs, or None when the model does not describe them. Call `warm` first.

        Raises UnavailableError.
        """
        ...

"""(d) A model that does no work: the same ten items for everybody."""

import gc

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Constant(MLModel):
    """Answers with a response made beforehand."""

    async def load(self) -> bool:
        gc.set_threshold(200_000, 50, 50)
        self._items = ResponseOutput(name="items", shape=[1, 10], datatype="INT64", data=list(range(10)))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[self._items])

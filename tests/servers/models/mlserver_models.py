# mypy: ignore-errors
# It runs in an environment of its own, with libraries that are not in this one.
"""The models as MLServer calls them, started by `mlserver start FOLDER`."""

import asyncio
from itertools import chain

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from toys import double, recommend, seconds_to_take


class Doubler(MLModel):
    """`parameters.extra.times` is how often it doubles."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (x,) = payload.inputs
        numbers = list(x.data)
        await asyncio.sleep(seconds_to_take(numbers))
        y = double(numbers, self.settings.parameters.extra["times"])
        return _response(self, payload, [ResponseOutput(name="y", shape=[len(y)], datatype="INT64", data=y)])


class Recommender(MLModel):
    """The outputs are flat, as servers may send them."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (user_idx,) = payload.inputs
        items, scores = recommend(list(user_idx.data))
        outputs = [
            ResponseOutput(name=name, shape=[len(rows), 10], datatype=datatype, data=list(chain(*rows)))
            for name, datatype, rows in (("items", "INT64", items), ("scores", "FP64", scores))
        ]
        return _response(self, payload, outputs)


def _response(model, payload, outputs):
    return InferenceResponse(
        model_name=model.name, model_version=model.version, id=payload.id, outputs=outputs
    )

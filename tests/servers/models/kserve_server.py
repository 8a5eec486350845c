# mypy: ignore-errors
# It runs in an environment of its own, with libraries that are not in this one.
"""`python kserve_server.py PORT`: the models behind both of KServe's protocols.

Version 1 is TensorFlow Serving's REST: `{"instances": [{"x": 1}, …]}` → `{"predictions": […]}`.
"""

import asyncio
import sys
from itertools import chain

import uvicorn
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.protocol.rest import server as rest
from toys import double, recommend, seconds_to_take


class Toy(Model):
    """One input `input_name`; `outputs` are name, datatype and further sizes."""

    input_name: str
    outputs: list[tuple[str, str, list[int]]]

    def load(self) -> bool:
        self.ready = True
        return True

    async def compute(self, values):
        """Each output's value for each example, one list for each output."""
        raise NotImplementedError

    async def predict(self, payload, headers=None, response_headers=None):  # noqa: ARG002 - its own names
        if isinstance(payload, dict):
            columns = await self.compute([instance[self.input_name] for instance in payload["instances"]])
            if len(columns) == 1:
                return {"predictions": columns[0]}
            names = [name for name, _, _ in self.outputs]
            return {"predictions": [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]}
        (tensor,) = payload.inputs
        columns = await self.compute(list(tensor.data))
        outputs = [
            InferOutput(name=name, shape=[len(values), *sizes], datatype=datatype, data=_flat(values, sizes))
            for (name, datatype, sizes), values in zip(self.outputs, columns, strict=True)
        ]
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=outputs)

    async def get_input_types(self):
        return [{"name": self.input_name, "datatype": "INT64", "shape": [-1]}]

    async def get_output_types(self):
        return [
            {"name": name, "datatype": datatype, "shape": [-1, *sizes]}
            for name, datatype, sizes in self.outputs
        ]


class Doubler(Toy):
    input_name = "x"
    outputs = [("y", "INT64", [])]  # noqa: RUF012 - read only

    async def compute(self, values):
        await asyncio.sleep(seconds_to_take(values))
        return [double(values)]


class Recommender(Toy):
    input_name = "user_idx"
    outputs = [("items", "INT64", [10]), ("scores", "FP64", [10])]  # noqa: RUF012 - read only

    async def compute(self, values):
        return list(recommend(values))


def _flat(values, sizes):
    return list(chain.from_iterable(values)) if sizes else values


def _on_loopback(*arguments, **options):
    return uvicorn.Config(*arguments, **{**options, "host": "127.0.0.1"})


if __name__ == "__main__":
    # It has no setting for the address, and its own is every interface.
    rest.uvicorn = type("Uvicorn", (), {"Config": _on_loopback, "Server": uvicorn.Server})
    models = [Doubler("doubler"), Recommender("recommender")]
    for model in models:
        model.load()
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, grace_period=1).start(models)

# mypy: ignore-errors
# It runs in an environment of its own, with libraries that are not in this one.
"""`python triton_server.py FOLDER HTTP_PORT GRPC_PORT`: the models behind Triton, batched by it."""

import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from toys import double, recommend, seconds_to_take

MAX_BATCH = 1024
MAX_DELAY_MICROSECONDS = 500


@batch
def doubler(x):
    numbers = x[:, 0].tolist()
    time.sleep(seconds_to_take(numbers))
    return {"y": np.array(double(numbers), np.int64).reshape(-1, 1)}


@batch
def recommender(user_idx):
    items, scores = recommend(user_idx[:, 0].tolist())
    return {"items": np.array(items, np.int64), "scores": np.array(scores, np.float64)}


def _tensor(name, dtype=np.int64, size=1):
    # Triton batches only what has a dimension beside the batch.
    return Tensor(name=name, dtype=dtype, shape=(size,))


def main():
    folder, http_port, grpc_port = sys.argv[1:]
    # Without this, the end of this program does not end the server's own process in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(http_port),
        # It is ready only when this answers too.
        grpc_address="127.0.0.1",
        grpc_port=int(grpc_port),
        allow_metrics=False,
        exit_timeout_secs=1,
    )
    batching = ModelConfig(
        max_batch_size=MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=MAX_DELAY_MICROSECONDS)
    )
    # It makes the folder itself, and takes none that is there from a start before.
    workspace = Path(tempfile.mkdtemp(dir=folder)) / "workspace"
    with Triton(config=config, workspace=workspace) as triton:
        triton.bind("doubler", doubler, [_tensor("x")], [_tensor("y")], config=batching)
        outputs = [_tensor("items", size=10), _tensor("scores", np.float64, 10)]
        triton.bind("recommender", recommender, [_tensor("user_idx")], outputs, config=batching)
        triton.serve()


if __name__ == "__main__":
    main()

"""A backlog before a model that needs much memory for each example is worked off within the worker's memory."""

import hashlib
import uuid
from pathlib import Path

from tests.support.models.onnx_files import save_large_model
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.process import StartWorker

REQUESTS = 600
MIB = 1024 * 1024
ONNX_MEMORY = 256 * MIB
# What the worker needs beside the model.
WORKER = 200 * MIB


def peak_bytes(pid: int) -> int:
    """The largest resident memory that the process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


async def test_before_a_model_with_large_tensors(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """2 MB a tensor for each example: a full batch of 600 would need more than 1.2 GB."""
    path = save_large_model(tmp_path / "m.onnx")
    settings = await topics(PARTITIONS, postgres_dsn=database, onnx_memory_bytes=ONNX_MEMORY)
    version = {
        **spec("v1", framework="onnx", timeout_ms=60_000, cache_ttl_seconds=0),
        "artifact_uri": path.as_uri(),
        "artifact_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    name = f"m-{uuid.uuid4().hex[:12]}"
    await apply(database, event("register", name, model=version), event("promote", name, version="v1"))
    async with asking(settings) as asker:
        xs = [[float(number)] for number in range(REQUESTS)]
        ids = await asker.send(name, xs)
        worker = start_worker(settings)
        await worker.ready()
        responses = await asker.answers(ids)
        assert [response.predictions for response in responses] == [
            number + 1.0 for number in range(REQUESTS)
        ]
        assert peak_bytes(worker.pid) < ONNX_MEMORY + WORKER
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        assert asker.letters() == {}

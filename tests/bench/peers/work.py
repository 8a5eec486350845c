"""The work that each record of the same-work peers gets, piece by piece, with the libraries Headrace uses.

What differs from Headrace is only how the pieces are put together: here for one record after another,
as the peers' documentation suggests.
"""

import bisect
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jsonschema_rs
import numpy as np
import onnxruntime
import orjson
from prometheus_client import Histogram
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

CACHE_SECONDS = 86_400
LATENCY = Histogram("latency_seconds", "From a record's arrival to its answer", ["model_version"])


class Request(BaseModel):
    """As in Headrace's contract."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())

    request_id: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    model_name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    user_id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    input: dict[str, Any]
    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] | None = None


@dataclass(slots=True)
class Case:
    """A request on its way: its version, and where its prediction is kept."""

    request: Request
    version: str
    digest: str
    key: str
    started: float
    predictions: bytes = b""
    cached: bool = False


class Work:
    """The model as the harness describes it in the file `BENCH_MODEL`."""

    def __init__(self) -> None:
        model = json.loads(Path(os.environ["BENCH_MODEL"]).read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._salt: str = model["route"]["salt"]
        self._revision: int = model["revision"]
        self._ends = [part["end"] for part in model["route"]["ranges"]]
        self._versions = [part["version"] for part in model["route"]["ranges"]]
        self._check = jsonschema_rs.validator_for(model["input_schema"])
        self._sessions = {
            version: onnxruntime.InferenceSession(path, options)
            for version, path in model["artifacts"].items()
        }
        self._latencies = {version: LATENCY.labels(version) for version in self._sessions}

    def open(self, value: bytes) -> Case:
        """Validate a record, route it, check its input; raises ValueError when it is wrong."""
        started = time.perf_counter()
        request = Request.model_validate_json(value)
        hashed = hashlib.sha256(f"{self._salt}:{request.user_id}".encode()).digest()
        version = self._versions[bisect.bisect_right(self._ends, int.from_bytes(hashed[:8], "big") % 10_000)]
        if not self._check.is_valid(request.input):
            raise ValueError("the input does not match the schema")
        canonical = orjson.dumps(request.input, option=orjson.OPT_SORT_KEYS)
        digest = hashlib.blake2b(canonical, digest_size=16).hexdigest()
        return Case(request, version, digest, f"pred:{version}:{digest}", started)

    def infer(self, case: Case) -> bytes:
        """Run the model for one record."""
        feed = {
            "user_idx": np.array([case.request.input["user_idx"]], dtype=np.int64),
            "context": np.array([case.request.input["context"]], dtype=np.float32),
        }
        return orjson.dumps(self._sessions[case.version].run(None, feed)[0][0].tolist())

    def answer(self, case: Case) -> bytes:
        """The response, counted."""
        seconds = time.perf_counter() - case.started
        self._latencies[case.version].observe(seconds)
        return orjson.dumps(
            {
                "request_id": case.request.request_id,
                "model_name": case.request.model_name,
                "model_version": case.version,
                "user_id": case.request.user_id,
                "predictions": orjson.Fragment(case.predictions),
                "latency_ms": round(seconds * 1000, 3),
                "cached": case.cached,
                "revision": self._revision,
                "stale": False,
            }
        )


def headers(case: Case, topic: str, partition: int, offset: int) -> list[tuple[str, bytes]]:
    return [
        ("headrace-source", f"{topic}/{partition}/{offset}".encode()),
        ("headrace-input-digest", case.digest.encode()),
        ("content-type", b"application/json"),
    ]

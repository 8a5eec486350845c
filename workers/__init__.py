"""Inference: backends, the prediction cache, artifacts.

Promises: every call returns predictions or an error of `schemas.errors` within its timeout, or within twice
its timeout while bad examples are isolated; exceptions of httpx, redis and onnxruntime are translated; no data goes to other hosts than those in the
settings.
Must never import: `streams`, `registry`, `deploy`.
"""

import os

# Released builds of ONNX Runtime from 1.29 on send telemetry to Microsoft unless this is set at import.
# An operator can allow it with 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

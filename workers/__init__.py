"""Turning inputs into predictions: backends, the prediction cache, artifacts.

Promises: every call returns within its timeout with predictions or with an error of
`schemas.errors`; nothing of httpx, redis or onnxruntime leaks out; nothing is told to anybody but
the services of the settings.
Must never import: `streams`, `registry`, `deploy`.
"""

import os

# From 1.29 on, the released builds of ONNX Runtime send what they do to Microsoft unless this is set
# when they are imported. An operator who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

"""The port `Backend` and its implementations: ONNX in process, and three protocols of model servers.

Promises: `infer` returns one prediction for each input or raises an error of `schemas.errors`. Batching
and limits are in `workers.calls`. `description`, `tensors`, `responses` and `*_messages` are PURE.
Must never import: `workers.artifacts`, `workers.cache`, `workers.calls`.
"""

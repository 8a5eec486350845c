"""Turning inputs into predictions: backends, the prediction cache, artifacts.

Promises: every call returns within its timeout with predictions or with an error of
`schemas.errors`; nothing of httpx, redis or onnxruntime leaks out.
Must never import: `streams`, `registry`, `deploy`.
"""

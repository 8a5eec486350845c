"""Calls to one backend: batching, concurrency limit, circuit breaker, and isolation of bad examples.

Promises: every caller gets one outcome for each input, a prediction or an error of `schemas.errors`.
`batch_size`, `batching`, `breaker`, `call_bytes`, `concurrency`, `failed_inputs` and `limits` are PURE.
Must never import: `workers.artifacts`, `workers.cache`.
"""

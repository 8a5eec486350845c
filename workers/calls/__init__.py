"""Calls to one backend: batching, concurrency limit, circuit breaker, and isolation of bad examples.

Promises: every caller gets one outcome for each input, a prediction or an error of `schemas.errors`.
`batching`, `breaker` and `concurrency` are PURE.
Must never import: `workers.artifacts`, `workers.cache`.
"""

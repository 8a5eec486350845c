"""The prediction cache in Redis, whose failure costs at most one timeout.

Promises: no call raises; while Redis is unavailable no caller waits for it. `availability` and `sealing` are PURE.
Must never import: `workers.artifacts`, `workers.backends`, `workers.calls`, `workers.network`.
"""

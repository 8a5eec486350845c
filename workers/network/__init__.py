"""HTTP to other hosts: allowed addresses, connections, and retries.

Promises: a connection goes only to an address that the operator allows. `endpoints` and `retry` are PURE.
Must never import: `workers.artifacts`, `workers.backends`, `workers.cache`, `workers.calls`.
"""

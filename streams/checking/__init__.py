"""Whether production would take a version: what `headrace check` finds out before it is registered.

`check` does what the registry and a worker would do with it; the other modules are PURE but for `latency`.
"""

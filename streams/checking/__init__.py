"""Whether production would take a version: what `headrace check` finds out before it is registered.

`version_check` does what the registry and a worker would do with the version. `agreement`, `contradictions` and
`samples` are PURE.
"""

"""Test whether production would accept a version, before it is registered: `headrace check`.

`version_check` does what the registry and a worker would do with the version. `agreement`, `contradictions` and
`samples` are PURE.
"""

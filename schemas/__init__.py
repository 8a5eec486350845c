"""PURE: the words that all packages share: wire models, the error tree, strict JSON.

Promises: a value that leaves this package is valid, or an error says what to do with the value.
Must never import: `streams`, `registry`, `workers`, `deploy`, or anything that does I/O.
"""

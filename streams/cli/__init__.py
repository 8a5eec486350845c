"""The command `headrace`: one module a group of verbs, each registered in `main.py` by one line.

Promises: results on standard output, everything else on standard error; no traceback for an error of
`schemas.errors`; a module of verbs imports nothing heavy before its verb runs.
"""

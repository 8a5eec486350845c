"""The command `headrace`: a module for each verb or group of verbs, registered in `main.py`.

Promises: results go to standard output, everything else to standard error. An error of `schemas.errors` shows
no traceback. A module of verbs imports nothing heavy before its verb runs.
"""

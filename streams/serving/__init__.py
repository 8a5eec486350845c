"""The request path, from a slice of records to its responses, and the table that it serves by.

`pipeline.py` is the path, top to bottom. `refresh.py` keeps the table at the registry's epoch.
"""

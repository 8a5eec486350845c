"""Model files: their sources, their verification, the folder that stores them, and MLflow's metadata.

Promises: a file is loaded only when its SHA-256 is the registered one; no pickle is ever loaded.
`mlflow_signature`, `mlmodel` and `pickles` are PURE.
Must never import: `workers.cache`, `workers.calls`.
"""

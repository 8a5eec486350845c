"""Apache Kafka, PostgreSQL and Redis as child processes, without containers.

Promises: every server listens on 127.0.0.1 only; no server outlives the process that started it, even if
that process is killed; a used data folder starts again with its data.
Must never import: `streams`, `registry`, `workers`.
"""

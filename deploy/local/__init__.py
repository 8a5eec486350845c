"""Apache Kafka, PostgreSQL and Redis as child processes of this one, without containers.

Promises: every server listens on 127.0.0.1 only; none outlives the process that started it, however
that one ends; a data folder that was used before starts again with its data.
Must never import: `streams`, `registry`, `workers`. It starts processes and knows nothing of what
they are for.
"""

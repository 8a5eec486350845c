"""A container engine, and stand-ins for the official images, where there is neither.

Promises: an engine that runs is used as it is, and one that was started here is stopped again; the
stand-ins take the variables, paths and commands of the official images as far as docker-compose.yml
and the tests use them, no further. They show that the parts fit, not that the official images do.
No address of a registry is in them: packages come from where this machine gets its own.
Must never import: `streams`, `registry`, `workers`.
"""

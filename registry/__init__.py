"""Models, versions and routes in PostgreSQL, how promotions change them, and how a change reaches the workers.

Promises: a promotion applies whole or not at all; a route covers every bucket exactly once.
Must never import: `streams`, `workers`, `deploy`.
"""

"""The roles of a worker process: each one opens its connections, reads its topic, and publishes its metrics.

This package wires the other packages together.
"""

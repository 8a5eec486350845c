"""Kafka in, Kafka out: the only package that wires the others together.

Promises: every readable request is answered, nothing is lost on a crash, a wrong record blocks
nobody. Must never import: `deploy.demo`.
"""

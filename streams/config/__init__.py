"""What a process is told: its settings and where each came from, secrets and TLS, and which process it is.

Imports no other package of `streams`.
"""

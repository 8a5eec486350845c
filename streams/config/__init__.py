"""The configuration of a process: settings and their sources, TLS, credentials, and the process's identity.

Imports no other package of `streams`.
"""

"""The roles of a worker: each one opens its connections, reads its topic, and publishes its metrics.

This package wires the other packages together.
"""

from collections.abc import Mapping

ROLES: Mapping[str, str] = {
    "predict": "streams.roles.predict_role:predict_role",
    "control": "streams.roles.control_role:control_role",
    "monitor": "streams.roles.monitor_role:monitor_role",
    "log": "streams.roles.log_role:log_role",
}
"""Where each role is. Its process imports only this one: those of all roles together take 25 MB more."""

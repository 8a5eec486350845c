"""Spans of slices and of calls to backends, exported by OTLP; only with the extra `otel`, and only when asked for.

Nothing outside this package knows of OpenTelemetry, and nothing imports it while `otlp_endpoint` is unset.
A span has neither inputs nor predictions, user ids or the words of an error.
"""

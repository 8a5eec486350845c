"""Spans of slices and of backend calls, exported over OTLP, where `otlp_endpoint` is set (extra `otel`).

Only this package imports OpenTelemetry, and only while `otlp_endpoint` is set. A span contains no inputs, no
predictions, no user ids and no error messages.
"""

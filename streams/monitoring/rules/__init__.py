"""The alert rules: each compares recent metrics with a threshold and returns an `Evaluation`. All modules are PURE."""

"""PURE: the alert rules. Each compares recent metrics with a threshold and returns an `Evaluation`."""

"""Calls to one backend: batches, calls at once, the breaker, and the search for bad examples."""

"""The page `/metrics` of a process: built from its counters and state at each scrape.

Every metric is in `catalogue.py`. Labels are names of registered models and versions, codes of enumerations,
partitions and workers; senders of requests cannot create label values.
"""

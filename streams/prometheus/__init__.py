"""What a process shows to Prometheus at `/metrics`: read from what is there when it is asked, counted nowhere twice.

Names begin with `headrace_`, times are in seconds, counters end in `_total`. Labels are names of models and versions that are
registered, codes of enumerations, partitions and workers: nothing that whoever sends requests can make up.
"""

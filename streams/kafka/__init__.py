"""Reading slices from Kafka, tracking their offsets, and writing batches to it.

The only package that uses private names of Faust and aiokafka; `tests/contract/test_pinned_libraries.py` holds
them. Knows nothing of models, predictions or the registry.
"""

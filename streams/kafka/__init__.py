"""Reading slices from Kafka, tracking their offsets, and writing batches to it.

The only package that imports Faust and aiokafka, and that uses their private names;
`tests/contract/test_pinned_libraries.py` checks these names. It does not know models, predictions or the registry.
"""

import streams.kafka.metadata_requests  # noqa: F401  # before the first client asks

"""A Quix Streams application with the settings that made it fastest, for the echo and the same work."""

import gc
import os

from quixstreams import Application
from quixstreams.models import Topic


def make_app() -> tuple[Application, Topic, Topic]:
    """The application, its input and its output."""
    gc.set_threshold(200_000, 50, 50)
    app = Application(
        broker_address=os.environ["BENCH_BOOTSTRAP"],
        consumer_group=os.environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
        auto_create_topics=False,
        use_changelog_topics=False,
        loglevel="WARNING",
        # librdkafka fetches ahead and batches more than it does by itself.
        consumer_extra_config={
            "queued.min.messages": 200_000,
            "queued.max.messages.kbytes": 256 * 1024,
            "fetch.message.max.bytes": 4 * 1024 * 1024,
        },
        producer_extra_config={
            "linger.ms": 50,
            "batch.size": 1024 * 1024,
            "batch.num.messages": 50_000,
            "queue.buffering.max.messages": 1_000_000,
        },
    )
    source = app.topic(os.environ["BENCH_INPUT"], key_deserializer="bytes", value_deserializer="bytes")
    sink = app.topic(os.environ["BENCH_OUTPUT"], key_serializer="bytes", value_serializer="bytes")
    return app, source, sink

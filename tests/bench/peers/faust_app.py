"""A stock Faust application with the settings that made it fastest, for the echo and the same work."""

import gc
import os
import sys

import faust

INPUT, OUTPUT = os.environ["BENCH_INPUT"], os.environ["BENCH_OUTPUT"]


def make_app() -> faust.App:
    return faust.App(
        os.environ["BENCH_GROUP"],
        broker=f"kafka://{os.environ['BENCH_BOOTSTRAP']}",
        store="memory://",
        # No tables, so nothing of what they need.
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        broker_max_poll_records=2000,
        # Without a linger, every turn of the loop makes a request to the broker of a few records.
        producer_linger=0.05,
        producer_max_batch_size=512 * 1024,
        producer_max_request_size=8 * 1024 * 1024,
    )


def run(app: faust.App) -> None:
    gc.set_threshold(200_000, 50, 50)
    sys.argv = ["faust", "worker", "--without-web", "--loglevel", "warn"]
    app.main()

"""Settings of the Python interpreter that raise the throughput of a process which handles slices."""

import gc
import sys

# The default thresholds of the garbage collector cost a quarter of the throughput: a slice creates thousands of
# objects that live for milliseconds and form no cycles.
GC_THRESHOLDS = (200_000, 50, 50)

# The model's thread asks for the interpreter lock between its runs. With the default of 5 ms it waits longer than
# it computes and a core idles, which costs a tenth of the throughput of a cold cache.
SWITCH_INTERVAL_SECONDS = 0.0005


def tune_garbage_collector() -> None:
    """Collect rarely, and never the objects that exist now: they live as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def tune_thread_switching() -> None:
    """Let a waiting thread get the interpreter lock sooner."""
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)

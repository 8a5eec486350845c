"""How each of the benchmark's commands begins and ends."""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from schemas.errors import HeadraceError

from .answers import WrongAnswerError

BUILD = Path("build/bench").absolute()


def console() -> Console:
    # A log file has no width of its own.
    return Console(width=None if sys.stdout.isatty() else 110, highlight=False)


def entry(main: Callable[[], int | None]) -> int:
    """Run `main`; returns its exit code, or 0. A SIGTERM ends it as Ctrl-C does, with all that it started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    # It logs every topic that the broker creates a moment after it has answered.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        return main() or 0
    except KeyboardInterrupt:
        return 130
    except (HeadraceError, WrongAnswerError) as error:
        Console(stderr=True, highlight=False).print(f"bench: {error}", markup=False)
        return 1

"""streams/process/watchdog.py: ends a stalled process, and no other."""

import threading

from streams.process.watchdog import EXIT_STALLED, Progress, Watch, Watchdog, advance
from tests.support.deadline import DEADLINE_SECONDS


def test_idle_is_progress() -> None:
    """Without waiting work each look restarts the clock."""
    assert advance(Watch(5, 0.0), Progress(waiting=False, done=5), 100.0) == Watch(5, 100.0)


def test_work_done_is_progress() -> None:
    """Finished work restarts the clock although more work waits."""
    assert advance(Watch(5, 0.0), Progress(waiting=True, done=6), 100.0) == Watch(6, 100.0)


def test_waiting_without_progress_keeps_the_clock() -> None:
    """The time of the last progress stays while work waits and none is done."""
    assert advance(Watch(5, 40.0), Progress(waiting=True, done=5), 100.0) == Watch(5, 40.0)


def test_ends_a_stalled_process() -> None:
    """With work waiting and none done for longer than the stall time, the watchdog ends the process once."""
    ended: list[int] = []
    seen = threading.Event()

    def end(code: int) -> None:
        ended.append(code)
        seen.set()

    clock = iter(range(0, 10_000, 10))
    dog = Watchdog(
        lambda: Progress(waiting=True, done=1),
        lambda: 30.0,
        period_seconds=0.001,
        end_process=end,
        clock=lambda: float(next(clock)),
    )
    dog.start()
    assert seen.wait(DEADLINE_SECONDS)
    dog.stop()
    assert ended == [EXIT_STALLED]


def test_does_not_end_a_working_process() -> None:
    """While work is done, the amount of waiting work does not matter."""
    done = 0
    looked = threading.Event()
    ended: list[int] = []

    def progress() -> Progress:
        nonlocal done
        done += 1
        if done > 20:
            looked.set()
        return Progress(waiting=True, done=done)

    clock = iter(range(0, 10_000_000, 10))
    dog = Watchdog(
        progress,
        lambda: 30.0,
        period_seconds=0.001,
        end_process=ended.append,
        clock=lambda: float(next(clock)),
    )
    dog.start()
    assert looked.wait(DEADLINE_SECONDS)
    dog.stop()
    assert ended == []

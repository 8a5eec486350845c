"""streams/process/watchdog.py: ends a stalled process, and no other."""

import threading

from streams.process.watchdog import EXIT_STALLED, Progress, Watch, Watchdog, look


def test_idle_is_progress() -> None:
    """With nothing to do the clock starts anew at each look."""
    assert look(Watch(5, 0.0), Progress(waiting=False, done=5), 100.0) == Watch(5, 100.0)


def test_work_done_is_progress() -> None:
    """Done work starts the clock anew although more waits."""
    assert look(Watch(5, 0.0), Progress(waiting=True, done=6), 100.0) == Watch(6, 100.0)


def test_waiting_without_progress_keeps_the_clock() -> None:
    """The time of the last move stays while work waits and none is done."""
    assert look(Watch(5, 40.0), Progress(waiting=True, done=5), 100.0) == Watch(5, 40.0)


def test_ends_a_stalled_process() -> None:
    """With work waiting and none done for longer than its patience, the process is ended once."""
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
    assert seen.wait(5)
    dog.stop()
    assert ended == [EXIT_STALLED]


def test_spares_a_working_process() -> None:
    """While work gets done, however much waits, nothing is ended."""
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
    assert looked.wait(5)
    dog.stop()
    assert ended == []

"""Ends a process whose Python threads cannot run: a library holds the interpreter, for example in a slow pattern.

No Python code can notice that, the thread of `watchdog.py` included. So a timer of the kernel calls the C function
`_exit`, which needs no interpreter. A thread restarts the timer as long as it can run. Before the end, `faulthandler`
writes to standard error where each thread is.

Where the C library has no `timer_create`, as on macOS, `faulthandler` ends the process instead, with exit code 1.
"""

import ctypes
import faulthandler
import threading
from typing import Self

from streams.process.watchdog import EXIT_STALLED

# The dump of the threads comes first.
DUMP_SECONDS = 1.0
_STANDARD_ERROR = 2
# From <time.h> and <signal.h>: the same in glibc and musl, on every architecture.
_CLOCK_MONOTONIC = 1
_SIGEV_THREAD = 2


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    @classmethod
    def of(cls, seconds: float) -> Self:
        return cls(int(seconds), int(seconds % 1 * 1_000_000_000))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class _EventSpec(ctypes.Structure):
    """`struct sigevent` of 64-bit Linux."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_char * 32),
    )


class _ExitTimer:
    """A timer of the kernel that ends the process with `exit_code`; raises OSError when there can be none."""

    def __init__(self, exit_code: int) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        try:
            create, end = self._library.timer_create, self._library._exit  # noqa: SLF001  # the function's name in C
        except AttributeError:
            raise OSError("the C library has no timer_create") from None
        self._timer = ctypes.c_void_p()
        function = ctypes.cast(end, ctypes.c_void_p).value
        event = _EventSpec(value=exit_code, notify=_SIGEV_THREAD, function=function)
        self._checked(create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)))

    def start(self, seconds: float) -> None:
        """End the process in `seconds`, unless started again before; 0 stops the timer."""
        spec = _TimerSpec(_Timespec(), _Timespec.of(seconds))
        self._checked(self._library.timer_settime(self._timer, 0, ctypes.byref(spec), None))

    def close(self) -> None:
        self._library.timer_delete(self._timer)

    def _checked(self, result: int) -> None:
        if result != 0:
            error = ctypes.get_errno()
            raise OSError(error, "no timer of the kernel")


class InterpreterTimer:
    """While the block runs: ends the process with 70 when no Python thread could run for `limit_seconds`."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        try:
            self._timer: _ExitTimer | None = _ExitTimer(EXIT_STALLED)
        except OSError:
            self._timer = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-interpreter", daemon=True)

    def __enter__(self) -> None:
        self._restart()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self._timer is not None:
            self._timer.close()

    def _run(self) -> None:
        while not self._stopped.wait(min(1.0, self._limit_seconds / 4)):
            self._restart()

    def _restart(self) -> None:
        if self._timer is not None:
            self._timer.start(self._limit_seconds + DUMP_SECONDS)
        faulthandler.dump_traceback_later(self._limit_seconds, file=_STANDARD_ERROR, exit=self._timer is None)

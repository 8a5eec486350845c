"""Launcher of a child process: `launch.py PARENT_PID DEATH_SIGNAL PROGRAM [ARGUMENT…]`.

On Linux the kernel sends DEATH_SIGNAL to the program when its parent dies, so a killed parent leaves no
server running. On other systems servers end only with an orderly stop.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent_pid, death_signal, *command = sys.argv[1:]
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0):
        sys.exit("launch: the kernel refused the parent-death signal")
    # The signal is not sent for a parent that died before the call above.
    if os.getppid() != int(parent_pid):
        sys.exit("launch: the parent has died")
    # Python ignores SIGPIPE, and the program would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606 - a launcher replaces itself


if __name__ == "__main__":
    main()

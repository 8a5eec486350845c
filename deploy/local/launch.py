"""Runs in each child before its program: `launch.py PARENT_PID DEATH_SIGNAL PROGRAM [ARGUMENT…]`.

On Linux the kernel sends DEATH_SIGNAL to the program when its parent dies, so that a parent that is
killed leaves no server behind. Elsewhere only an orderly stop takes the servers down.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent_pid, death_signal, *command = sys.argv[1:]
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0):
        sys.exit("launch: the kernel refuses a parent-death signal")
    # A parent that died before the call above sends no signal any more.
    if os.getppid() != int(parent_pid):
        sys.exit("launch: the parent is gone")
    # Python ignores SIGPIPE, and an ignored signal would stay ignored in the program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606 - becoming that program is the purpose


if __name__ == "__main__":
    main()

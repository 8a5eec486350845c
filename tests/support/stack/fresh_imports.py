"""Imports modules of this project alone, each in a fork of a process in which only other libraries are loaded.

The processes of the fork server have every module loaded, so they do not show a module that cannot be imported
first. Started as a program with the names of packages, it prints the names of such modules, and their errors to
standard error.
"""

import gc
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Sequence


def modules_of(packages: Sequence[str]) -> Iterator[str]:
    """The names of the packages' modules, which are imported for it.

    A package is not among them: each of its modules imports it first.
    """
    for package in packages:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
                if not module.ispkg:
                    yield module.name


def start_import(name: str) -> int:
    """The pid of a fork of this process that imports the module; it exits with 1, and says why, if it cannot."""
    pid = os.fork()
    if pid == 0:
        try:
            importlib.import_module(name)
        except BaseException:  # noqa: BLE001 - the fork must not go on with the loop of its parent
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return pid


def import_each(names: Sequence[str], *, at_once: int) -> list[str]:
    """The modules that cannot be imported alone."""
    waiting, running, failed = list(names), dict[int, str](), []
    while waiting or running:
        if waiting and len(running) < at_once:
            name = waiting.pop()
            running[start_import(name)] = name
        else:
            pid, status = os.wait()
            name = running.pop(pid)
            if status != 0:
                failed.append(name)
    return failed


if __name__ == "__main__":
    own = sys.argv[1:]
    modules = list(modules_of(own))
    for loaded in list(sys.modules):
        if loaded.partition(".")[0] in own:
            del sys.modules[loaded]
    # The forks share pages for as long as nobody writes to them, and a collector writes.
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.stdout.write("\n".join(import_each(modules, at_once=os.cpu_count() or 1)))

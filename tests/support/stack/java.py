"""Kafka that starts in a third of the time: from an archive of loaded classes, and without the optimising compiler.

A start of Kafka takes 4.4 s of processor time, and 1.4 s with both (Java 17, 2 cores). The archive is made once for
a Java and a release of Kafka, beside Kafka's jars in the user's cache folder, by a Kafka that starts and ends.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from deploy.local.java import fetch_jars, find_java
from deploy.local.kafka import Kafka

# The launcher of Java reads it, and no other test sets it.
OPTIONS = "JDK_JAVA_OPTIONS"
_QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


def start_java_fast(report: Callable[[str], None]) -> None:
    """Let the Kafkas that this process and its children start from now on use the archive; made if it is missing."""
    archive = _archive(report)
    if not archive.exists():
        report("making an archive of Kafka's classes (once)")
        _make(archive)
    # A Java that cannot read the file that is named does not use its own archive either.
    named = f" -XX:SharedArchiveFile={archive}" if archive.exists() else ""
    os.environ[OPTIONS] = _QUICK + named


def _archive(report: Callable[[str], None]) -> Path:
    """Where it is: another Java or another Kafka has another one."""
    java = Path(find_java()).resolve()
    identity = f"{java} {java.stat().st_mtime_ns}"
    jars = fetch_jars(report)
    return jars.with_name(f"{jars.name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.jsa")


def _make(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent) as name:
        new = Path(name) / "new.jsa"
        # Each Java writes what it has loaded at its end: the format tool, and then Kafka over it.
        os.environ[OPTIONS] = f"{_QUICK} -XX:ArchiveClassesAtExit={new}"
        kafka = Kafka(Path(name) / "kafka", None, lambda _: None)
        kafka.prepare()
        kafka.start()
        kafka.stop()
        if new.exists():
            new.rename(archive)

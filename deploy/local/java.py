"""The installed Java, and Kafka's jars, which Maven downloads once into the user's cache folder."""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

from deploy.local.process import run
from schemas.errors import SetupError

POM = Path(__file__).parent.parent / "kafka" / "pom.xml"
NEEDED_JAVA = 17
_DOWNLOAD_SECONDS = 900.0
_INSTALL_JAVA = (
    f"install a Java runtime of version {NEEDED_JAVA} or newer (Debian and Ubuntu: "
    "`apt install openjdk-17-jre-headless`, macOS: `brew install openjdk`) and put it on PATH or in JAVA_HOME"
)
_INSTALL_MAVEN = (
    "Apache Maven (`mvn`) is not on PATH; it downloads Kafka once: install it "
    "(Debian and Ubuntu: `apt install maven`, macOS: `brew install maven`)"
)


def java_major(version_output: str) -> int | None:
    """The major version in the output of `java -version`: 17 for `"17.0.15"`, 8 for `"1.8.0_402"`."""
    found = re.search(r'version "(?:1\.)?(\d+)', version_output)
    return int(found[1]) if found else None


def find_java() -> str:
    """The path of a supported Java; raises SetupError, whose message says what to install."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else None
    java = java or shutil.which("java")
    if java is None:
        raise SetupError(f"Java is not installed; {_INSTALL_JAVA}")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    major = java_major(answer.stderr)
    if major is None:
        raise SetupError(f"`{java} -version` fails: {answer.stderr.strip()}; {_INSTALL_JAVA}")
    if major < NEEDED_JAVA:
        raise SetupError(f"{java} is Java {major}; {_INSTALL_JAVA}")
    return java


def kafka_version() -> str:
    version = ET.parse(POM).findtext(".//{*}kafka.version")  # noqa: S314 - our own file
    assert version is not None
    return version


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def fetch_jars(report: Callable[[str], None]) -> Path:
    """The folder with Kafka's jars; Maven downloads them if necessary.

    Of several processes one downloads and the others wait. An interrupted download leaves no folder of
    this name. Raises SetupError.
    """
    cache = cache_folder()
    jars = cache / f"kafka-{kafka_version()}"
    if jars.is_dir():
        return jars
    if shutil.which("mvn") is None:
        raise SetupError(_INSTALL_MAVEN)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _exclusive_lock(jars.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=cache) as temporary:
            if not jars.is_dir():
                report(f"downloading Apache Kafka {kafka_version()} with Maven (about 55 MB, once)")
                _copy_dependencies(Path(temporary))
                Path(temporary, "jars").rename(jars)
    except OSError as error:
        raise SetupError(f"the cache folder {cache} cannot be used: {error}; set XDG_CACHE_HOME") from error
    return jars


def _copy_dependencies(temporary: Path) -> None:
    command = ["mvn", "--batch-mode", "--quiet", "-Dstyle.color=never", "-f", str(POM)]
    run(
        "Maven",
        [*command, "dependency:copy-dependencies", f"-DoutputDirectory={temporary / 'jars'}"],
        log=temporary / "maven.log",
        timeout_seconds=_DOWNLOAD_SECONDS,
    )


@contextmanager
def _exclusive_lock(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

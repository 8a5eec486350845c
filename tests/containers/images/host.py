"""What this machine knows of where its packages come from, to be handed to an image that is built here."""

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from schemas.errors import SetupError

# The list of what an image has from this machine only, for one that is to forget it again.
HANDED = "etc/host-configuration"
_COPIED = (
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/trusted.gpg",
    "/etc/apt/trusted.gpg.d",
    "/etc/apt/keyrings",
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d",
    "/usr/share/keyrings",
    "/usr/local/share/ca-certificates",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pip.conf",
)


def stage(root: Path) -> None:
    """Write what apt, pip and TLS need to know below `root`, an empty folder; raises SetupError."""
    for source in map(Path, _COPIED):
        target = root / source.relative_to("/")
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    # Only how packages are fetched: hooks of this machine's programs would find none of them there.
    acquire = [line for line in _output("apt-config", "dump") if line.startswith("Acquire::")]
    configuration = root / "etc/apt/apt.conf.d/90host"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text("\n".join(acquire) + "\n")


def codename() -> str:
    """Of this machine's release: "bookworm"."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def bootstrap(root: Path, configuration: Path) -> None:
    """Fill `root` with a minimal system of this machine's release, as root, and what was staged.

    Raises SetupError.
    """
    with tempfile.TemporaryFile("w+") as log:
        ended = subprocess.run(
            [
                *("debootstrap", "--variant=minbase", "--include=ca-certificates"),
                *(codename(), str(root), _mirror()),
            ],
            stdout=log,
            stderr=log,
            check=False,
        )
        if ended.returncode != 0:
            log.seek(0)
            raise SetupError(f"debootstrap failed: {log.read().strip()[-1000:]}")
    for emptied in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / emptied)
        (root / emptied / "partial").mkdir(parents=True)
    (root / "etc/apt/sources.list").unlink()
    staged = [path.relative_to(configuration) for path in configuration.rglob("*") if path.is_file()]
    # What a package brought is no secret, and stays.
    handed = sorted(f"/{path}\n" for path in staged if not (root / path).exists())
    shutil.copytree(configuration, root, dirs_exist_ok=True)
    (root / HANDED).write_text("".join(handed))


def _mirror() -> str:
    """Where this machine gets its release from."""
    targets = _output(
        "apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"
    )
    for target in targets:
        release, component, uri = target.split(maxsplit=2)
        if (release, component) == (codename(), "main"):
            return uri
    raise SetupError(f"apt has no source for {codename()} on this machine")


def _output(*command: str) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"`{command[0]}` fails: {error}; stand-ins are built on Debian only") from error

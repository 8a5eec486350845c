"""`python -m tests.monitoring.browser`: fetches Debian's Chromium and a font into `build/`; installs nothing.

Where there is no apt, a Chromium that is on PATH is taken.
"""

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import SetupError
from tests.support.stack.debian import library_path, unpack

BUILD = Path("build/browser").absolute()
ROOT = BUILD / "root"
# What chromium needs and is not installed here comes with it. The font makes screenshots the same everywhere.
PACKAGES = ("chromium", "fonts-inter")
ON_PATH = ("chromium", "chromium-browser", "google-chrome")
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{root}/usr/share/fonts</dir><cachedir>{build}/fonts</cachedir></fontconfig>
"""


@dataclass(frozen=True)
class Chromium:
    """The executable, and the environment variables that it needs."""

    executable: Path
    variables: Mapping[str, str]


def find() -> Chromium:
    """The fetched Chromium, else one on PATH; raises SetupError when there is neither."""
    executable = ROOT / "usr" / "lib" / "chromium" / "chromium"
    if executable.exists():
        return Chromium(
            executable,
            {
                "LD_LIBRARY_PATH": library_path(ROOT, without=executable.parent),
                "FONTCONFIG_FILE": str(BUILD / "fonts.conf"),
            },
        )
    found = next(filter(None, map(shutil.which, ON_PATH)), None)
    if found is None:
        raise SetupError("there is no Chromium; `python -m tests.monitoring.browser` brings one")
    return Chromium(Path(found), {})


def bring(report: Callable[[str], None]) -> None:
    """Fetch Chromium if it is missing, in one of several processes; raises SetupError when that fails."""
    if unpack(PACKAGES, BUILD, report) is not None:
        (BUILD / "fonts.conf").write_text(_FONTS.format(root=ROOT, build=BUILD))
    find()


def main() -> None:
    try:
        bring(lambda step: print(f"browser: {step}", file=sys.stderr, flush=True))  # noqa: T201 - progress for the user
    except SetupError as error:
        sys.exit(f"browser: {error}")


if __name__ == "__main__":
    main()

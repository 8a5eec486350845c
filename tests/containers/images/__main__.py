"""`python -m tests.containers.images [COMMAND …]`: run a command with an engine and the stand-ins' names in its environment.

Without a command the names are printed, as lines for `docker compose --env-file`. With OFFICIAL_IMAGES=1
in the environment no stand-ins are built, and the official images are used. Exits with the command's
code, or with 69 when no engine can be had (EX_UNAVAILABLE of sysexits.h).
"""

import os
import subprocess
import sys
from pathlib import Path

from schemas.errors import SetupError
from tests.containers.images.build import build
from tests.containers.images.engine import NoEngineError, engine

EXIT_NO_ENGINE = 69


def main(command: list[str]) -> int:
    try:
        with engine(Path("build/engine"), _report):
            names = {} if os.environ.get("OFFICIAL_IMAGES") else build(_report)
            if command:
                return subprocess.run(command, env={**os.environ, **names}, check=False).returncode
            sys.stdout.writelines(f"{variable}={name}\n" for variable, name in names.items())
            return 0
    except NoEngineError as error:
        _report(f"NO CONTAINER ENGINE, nothing was tested in containers: {error}")
        return EXIT_NO_ENGINE
    except SetupError as error:
        _report(str(error))
        return 1


def _report(step: str) -> None:
    print(f"containers: {step}", file=sys.stderr, flush=True)  # noqa: T201 - a command prints


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

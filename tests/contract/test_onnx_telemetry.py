"""ONNX Runtime sends no telemetry when it is imported through `workers`."""

import os
import subprocess
import sys
from pathlib import Path


def test_importing_the_backend_starts_no_telemetry(tmp_path: Path) -> None:
    """No device id, event queue or session file: its telemetry writes all three at its start."""
    # Under CI it is off by itself, which would hide that we have to switch it off.
    unset = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    subprocess.run(
        [sys.executable, "-B", "-c", "import workers.backends.onnx"],
        env={**environment, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        check=True,
        timeout=60,
    )
    assert list(tmp_path.iterdir()) == []

"""Models that other libraries train and convert, each in an environment of its own below `build/models`.

`python -m tests.models.exporting` makes the environments, before the tests need them.
"""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from schemas.errors import SetupError
from schemas.events import JsonObject
from tests.bench import venvs

BUILD = Path("build/models").absolute()
_HERE = Path(__file__).parent
# Environment, and the script that runs in it.
_EXPORTERS = {"tabular": "tabular.py", "tensorflow": "tensorflow_models.py"}
_QUIET = {"PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
_LOG_END = 3000


@dataclass(frozen=True)
class Exported:
    """A converted model, inputs for it, and what its own library predicts for them.

    `outputs` are the outputs that its version chooses, by the keys of predictions.
    """

    path: Path
    inputs: list[JsonObject]
    predictions: list[Any]
    outputs: dict[str, str] | None


def environment_of(case: str) -> str:
    """The environment in which the model of a case is made."""
    return "tensorflow" if case.startswith("keras") else "tabular"


def install(environment: str, report: Callable[[str], None]) -> Path:
    """Its `bin` folder; raises LackingError when this machine lacks what it needs, SetupError when it fails."""
    return venvs.ensure(_HERE / "requirements" / f"{environment}.txt", BUILD, report)


def export(environment: str, folder: Path) -> dict[str, Exported]:
    """Train and convert the models of an environment into `folder`; by case. Raises SetupError when it fails."""
    python = install(environment, lambda _: None) / "python"
    script = _HERE / "exporters" / _EXPORTERS[environment]
    ended = subprocess.run(
        [python, script, folder], capture_output=True, text=True, check=False, env={**os.environ, **_QUIET}
    )
    if ended.returncode != 0:
        raise SetupError(f"{script.name} fails:\n{ended.stderr[-_LOG_END:]}")
    return {
        path.stem: Exported(path.with_suffix(".onnx"), **json.loads(path.read_text()))
        for path in folder.glob("*.json")
    }


def main() -> None:
    out = Console(highlight=False, soft_wrap=True)
    for environment in _EXPORTERS:
        try:
            install(environment, lambda step: out.print(f"models: {step}", markup=False))
        except SetupError as error:
            out.print(f"models: no {environment}: {error}", markup=False)


if __name__ == "__main__":
    main()

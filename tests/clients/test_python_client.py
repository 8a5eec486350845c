"""The wheel of headrace-client, in an environment without Headrace, in an application with packages of the same names."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from streams.config.settings import Settings
from tests.clients.conftest import Serving
from tests.clients.environments import Environments
from tests.support.models.served_model import predictions_of

NAMES = ("schemas", "streams", "registry", "workers", "deploy")
APPLICATION = """
import asyncio
import json
import sys

import deploy
import registry
import schemas
import streams
import workers
from headrace_client import Client, PromotionRejectedError, Response, Topics


async def main(bootstrap: str, topics: Topics, model: str) -> None:
    assert {each.OF for each in (deploy, registry, schemas, streams, workers)} == {"the application"}
    async with Client(bootstrap, topics=topics) as client:
        before: Response = await client.predict(model, user_id="u1", input={"x": 2})
        refused: Response = await client.predict(model, user_id="u1", input={"x": -1})
        assert refused.error is not None
        promoted = await client.promote(model, "v2", reason="a trial", actor="the application")
        try:
            await client.promote(model, "v9")
        except PromotionRejectedError as error:
            rejected = str(error)
        outcome_id = await client.outcome(model, user_id="u1", name="click", request_id=before.request_id)
        print(json.dumps({
            "before": [before.model_version, before.predictions],
            "refused": [refused.error.code, [detail.path for detail in refused.error.details]],
            "promoted": [promoted.status, dict(promoted.weights)],
            "rejected": rejected,
            "outcome": outcome_id,
        }))


asyncio.run(main(sys.argv[1], Topics(**json.loads(sys.argv[2])), sys.argv[3]))
"""


def application(folder: Path) -> Path:
    """A program in a folder with packages that have the names of Headrace's."""
    for name in NAMES:
        package = folder / name
        package.mkdir()
        (package / "__init__.py").write_text('OF = "the application"\n')
    program = folder / "app.py"
    program.write_text(APPLICATION)
    return program


def topics_of(settings: Settings) -> str:
    names = ("requests", "responses", "outcomes", "promotions", "promotion_results")
    return json.dumps({name: getattr(settings, f"topic_{name}") for name in names})


async def test_an_application_with_packages_of_the_same_names(
    environments: Environments, serving: Serving, tmp_path: Path
) -> None:
    """It predicts, promotes and reports an outcome; what is refused comes with its reason."""
    settings = serving.settings
    arguments = [settings.kafka_bootstrap, topics_of(settings), serving.model]
    ended = await run(environments.python, application(tmp_path), *arguments)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["before"] == ["v1", predictions_of("v1", 2)]
    assert told["refused"] == ["INVALID_INPUT", ["/x"]]
    assert told["promoted"] == ["applied", {"v2": 100.0}]
    assert told["rejected"].startswith("UNKNOWN_VERSION: ")
    assert told["outcome"]
    assert ended.stderr == ""


async def test_it_needs_little_and_is_typed(environments: Environments, tmp_path: Path) -> None:
    """Its environment has aiokafka and what that needs; mypy accepts the application by the client's own types."""
    listing = "from importlib.metadata import distributions as d; print(*sorted(x.name for x in d()))"
    installed = (await run(environments.python, "-c", listing)).stdout.split()
    assert set(installed) <= {
        *("aiokafka", "async-timeout", "cramjam", "headrace-client", "packaging", "typing_extensions"),
        "typing-extensions",
    }
    program = application(tmp_path)
    checked = await run(
        Path(sys.executable),
        *("-m", "mypy", "--strict", "--config-file", os.devnull, "--cache-dir", tmp_path / "cache"),
        *("--python-executable", environments.python, program),
        folder=tmp_path,
    )
    assert checked.returncode == 0, checked.stdout


async def run(
    program: Path, *arguments: object, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return await asyncio.to_thread(
        subprocess.run,
        [str(program), *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

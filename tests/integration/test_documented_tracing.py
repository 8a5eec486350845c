"""docs/tracing.md, word for word but for the receiver's address."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import orjson

from registry.registration import check_version
from schemas.models import ModelSpec
from tests.support.models.served_model import apply
from tests.support.promotions.events import event
from tests.support.servers.otlp_receiver import otlp_receiver
from tests.support.stack.command import HEADRACE, environment
from tests.support.stack.services import MakeTopics

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
_ADDRESS = "http://127.0.0.1:4318"


def fraud(folder: Path) -> ModelSpec:
    """The model of README.md, made as it says."""
    (program,) = re.findall(r"python - <<'END'\n(.*?)\nEND\n", (_ROOT / "README.md").read_text(), re.DOTALL)
    (folder / "data").mkdir()
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    spec = ModelSpec.model_validate(orjson.loads((folder / "data" / "fraud.json").read_bytes())["model"])
    check_version(spec)
    return spec


async def test_the_page_is_tried(topics: MakeTopics, database: str, redis_url: str, tmp_path: Path) -> None:
    """The command and the program, and every attribute that comes is in the table."""
    (command,) = re.findall(r"```\n(\.venv/bin/headrace worker .*)\n```", _PAGE)
    (program,) = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)
    model = fraud(tmp_path).model_dump(mode="json", exclude_none=True)
    await apply(database, event("register", "fraud", model=model), event("promote", "fraud", version="v1"))
    # Other tests serve the same model, and its cached predictions would leave no span of a call.
    settings = await topics(
        1, postgres_dsn=database, redis_url=redis_url, artifact_dir=str(tmp_path / "artifacts")
    )
    async with otlp_receiver() as (url, receiver):
        _, *arguments = shlex.split(command.replace(_ADDRESS, url))
        worker = await asyncio.create_subprocess_exec(
            HEADRACE, *arguments, env=environment(settings), stderr=subprocess.PIPE, cwd=tmp_path
        )
        try:
            printed = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", program],
                # The program imports the checkout's packages, as it does where they are installed.
                env={**environment(settings), "PYTHONPATH": os.pathsep.join(sys.path)},
                cwd=tmp_path,
                check=True,
                capture_output=True,
                text=True,
            )
            await receiver.until(lambda: len(receiver.spans) == 2, "two spans")
        finally:
            worker.terminate()
            _, log = await worker.communicate()
    assert worker.returncode == 0, log.decode()
    call, handled = sorted(receiver.spans, key=lambda span: span.name)
    assert call.trace_id == handled.trace_id == printed.stdout.strip()
    documented = set(re.findall(r"`([a-z_.]+)`", _PAGE))
    assert {*call.attributes, *handled.attributes} <= documented
    assert {"service.name", "service.version", "service.instance.id"} <= handled.resource.keys()

"""README.md, word for word: the model, every command with its output, the two records, and the programs.

The run's own stack stands in for `headrace up`; the worker is one of the test.
"""

import asyncio
import getpass
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
from aiokafka import ConsumerRecord

from schemas.events import JsonObject
from streams.config.settings import Settings
from tests.support.docs.markdown import ROOT, blocks, console
from tests.support.kafka.topic_log import topic_log
from tests.support.stack.command import HEADRACE, environment
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

_README = ROOT / "README.md"
_CLIENTS = ROOT / "docs" / "clients.md"
_CONTROL_PLANE = ROOT / "docs" / "control-plane.md"
# The number of partitions that `headrace up` makes: the key of the example decides its partition.
_PARTITIONS = 4


async def test_from_the_model_to_the_rollback(
    topics: MakeTopics, database: str, redis_url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Every block that a reader types, in its order; the records are those that Kafka has.

    The Redis is the test's own: other tests ask the same version for the same input, which must not be cached.
    """
    settings = await topics(
        _PARTITIONS,
        postgres_dsn=database,
        redis_url=redis_url,
        worker_name="vm-6763",
        artifact_dir=str(tmp_path / "artifacts"),
    )
    (tmp_path / "data").mkdir()
    for worker in [start_worker(settings, role) for role in ("predict", "control")]:
        await worker.ready()
    (model,) = [block.text for block in blocks(_README, "sh") if "helper.make_model" in block.text]
    await typed(model, settings, tmp_path)

    async with topic_log(settings.kafka_bootstrap, settings.topic_requests, settings.topic_responses) as log:
        for command, shown in sessions():
            assert _comparable(await typed(command, settings, tmp_path)) == _comparable(shown), command
        await log.to_end()
        first = next(record for record in log.of(settings.topic_requests) if record.key == b"u1")
        request, response = (orjson.loads(block.text) for block in blocks(_README, "json"))
        assert _timeless(_shown(first, settings)) == _timeless(request)
        request_id = orjson.loads(first.value)["request_id"]
        (answer,) = [
            record
            for record in log.of(settings.topic_responses)
            if orjson.loads(record.value)["request_id"] == request_id
        ]
        assert _timeless(_shown(answer, settings)) == _timeless(response)

    (predict,) = (block.text for block in blocks(_README, "python"))
    assert await program(_with_topics(predict, settings), settings) == "0.8175744414329529\n"
    clients = next(block.text for block in blocks(_CLIENTS, "python"))
    told = (await program(_with_topics(clients, settings), settings)).splitlines()
    assert told[0] == "v1 0.8175744414329529"
    assert told[1].startswith("UNKNOWN_VERSION: ")
    (promote,) = (block.text for block in blocks(_CONTROL_PLANE, "python"))
    assert await program(promote, settings) == "applied kafka\n"


def sessions() -> Iterator[tuple[str, str]]:
    for block in blocks(_README, "console"):
        yield from console(block.text)


async def typed(commands: str, settings: Settings, folder: Path) -> str:
    """Run shell commands in a folder; returns standard output."""
    programs = str(Path(HEADRACE).parent) + "/"
    return await _run(
        ["bash", "-euo", "pipefail", "-c", commands.replace(".venv/bin/", programs)], settings, folder
    )


async def program(text: str, settings: Settings) -> str:
    """Run a Python program against the stack; returns standard output."""
    return await _run([sys.executable, "-c", text], settings, None)


async def _run(command: list[str], settings: Settings, folder: Path | None) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        # Programs import the packages of the checkout, as they do where these are installed.
        env={**environment(settings), "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, (command, stderr.decode())
    return stdout.decode()


def _with_topics(text: str, settings: Settings) -> str:
    """A program with headrace_client from the checkout, for the topics of the test in place of those of `headrace up`."""
    names = ("requests", "responses", "outcomes", "promotions", "promotion_results")
    topics = {name: getattr(settings, f"topic_{name}") for name in names}
    own = f"Client({settings.kafka_bootstrap!r}, topics=Topics(**{topics!r}))"
    changed = text.replace("headrace_client import", "streams.headrace_client import Topics,")
    assert changed.count('Client("127.0.0.1:9092")') == 1
    return changed.replace('Client("127.0.0.1:9092")', own)


def _comparable(output: str) -> str:
    """Output without what differs from run to run: ids, times, the user's name, the width of columns."""
    output = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", output)
    output = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", output)
    output = re.sub(rf"\b{getpass.getuser()}\b", "alice", output)
    return "\n".join(" ".join(line.split()) for line in output.splitlines())


def _shown(record: ConsumerRecord, settings: Settings) -> JsonObject:
    """A record in the form in which the page shows it."""
    headers = {
        name: value.decode().replace(settings.topic_requests, "predict-requests")
        for name, value in record.headers
    }
    return {"key": record.key.decode(), "headers": headers, "value": orjson.loads(record.value)}


def _timeless(record: JsonObject) -> JsonObject:
    """The record without its id and latency, and without the id of its topic."""
    varying = {"request_id": "ID", "latency_ms": 0, "headrace-topic-id": "ID"}
    return {
        **record,
        **{
            part: {name: varying.get(name, field) for name, field in record[part].items()}
            for part in ("headers", "value")
        },
    }

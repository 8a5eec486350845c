"""`python -m tests.bench.overload`: a worker with three times as many requests as a version answers, and a slow version.

Writes `build/bench/overload.json`. OVERLOAD_SECONDS is the length of a load (60), BENCH_REPEATS the number of backlogs
(3).
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from asyncio import StreamWriter
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import orjson
from aiokafka import AIOKafkaProducer

from schemas.events import JsonObject
from tests.support.models.onnx_files import save_doubler
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import METADATA, HttpRequest, answer, asked, doubled, http_server

from .answers import WrongAnswerError
from .broker import Broker, Output
from .competitors import HEADRACE
from .entry import BUILD, console, entry
from .environment import Environment, prepare
from .overload_figures import WITH, WITHOUT, BacklogRun, LoadRun, document
from .running import DEAD_LETTERS, METRICS, Running, run
from .tables import ratio_table
from .workload import PARTITIONS, Message

MODEL, BUSY = "overload", "overload-busy"
USERS = 10_000
# The slow version has this part of the users of its model, and this time for each call.
SLOW_PERCENT, SLOW_SECONDS = 1, 5.0
# What the busy version answers, what it is asked, and how long its queue is.
BUSY_EXAMPLE_SECONDS, BUSY_RATE, BUSY_WAITING = 0.01, 300, 200
OTHERS_RATE = 300
BACKLOG = 200_000
_SAMPLE_SECONDS, _POLL_SECONDS, _STALL_SECONDS = 0.5, 0.05, 60.0


@dataclass
class Servers:
    """The model servers of the harness: a call to `slow` takes `slow_seconds`, `busy` takes time for each example."""

    slow_seconds: float = 0.0
    busy: asyncio.Lock | None = None

    async def handle(self, request: HttpRequest, writer: StreamWriter) -> None:
        if request.method == "GET":
            writer.write(answer(METADATA))
            return
        if "/slow" in request.path:
            await asyncio.sleep(self.slow_seconds)
        elif "/busy" in request.path:
            self.busy = self.busy or asyncio.Lock()
            async with self.busy:
                await asyncio.sleep(BUSY_EXAMPLE_SECONDS * len(asked(request)))
        writer.write(answer(doubled(request)))


def main() -> int:
    seconds = float(os.environ.get("OVERLOAD_SECONDS") or 60)
    repeats = int(os.environ.get("BENCH_REPEATS") or 3)
    out = console()
    with prepare(BUILD, out.print) as environment:
        loads, backlogs = asyncio.run(
            measure(environment, seconds=seconds, backlog=BACKLOG, repeats=repeats, report=out.print)
        )
    figures = document(loads, backlogs, seconds=seconds)
    path = BUILD / "overload.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    for name, load in figures["load"].items():
        shown = {figure: value for figure, value in load.items() if figure != "rss_bytes"}
        out.print_json(data={name: shown})
    out.print(ratio_table(figures["targets"]))
    out.print(f"written to {path}")
    return 0 if all(target["reached"] for target in figures["targets"].values()) else 1


async def measure(
    environment: Environment, *, seconds: float, backlog: int, repeats: int, report: Callable[[str], None]
) -> tuple[dict[str, LoadRun], dict[str, list[BacklogRun]]]:
    """Loads and backlogs, each without and with a slow version, in turns."""
    servers = Servers()
    loads: dict[str, LoadRun] = {}
    backlogs: dict[str, list[BacklogRun]] = {WITHOUT: [], WITH: []}
    async with Broker(environment.kafka_bootstrap) as broker, http_server(servers.handle) as url:
        await _register(environment, url)
        await broker.create(DEAD_LETTERS, METRICS)
        for name, slow_seconds in ((WITHOUT, 0.0), (WITH, SLOW_SECONDS)):
            servers.slow_seconds = slow_seconds
            report(f"load for {seconds:g} s {name} a slow version")
            loads[name] = await _load(environment, broker, name, seconds)
        for number in range(repeats):
            for name, slow_seconds in ((WITHOUT, 0.0), (WITH, SLOW_SECONDS)):
                servers.slow_seconds = slow_seconds
                one = await _backlog(environment, broker, f"{name}-{number}", backlog)
                backlogs[name].append(one)
                report(f"backlog {name} a slow version: {one.others} others in {one.others_seconds:.1f} s")
    return loads, backlogs


async def _register(environment: Environment, url: str) -> None:
    path = save_doubler(environment.folder / "overload.onnx")
    v1 = {
        **spec("v1", framework="onnx", artifact_uri=path.absolute().as_uri(), cache_ttl_seconds=0),
        "artifact_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }

    def version(name: str, path: str, **fields: object) -> dict[str, object]:
        return spec(
            name, endpoint=f"{url}/v2/models/{path}", cache_ttl_seconds=0, timeout_ms=30_000, **fields
        )

    await apply(
        environment.postgres_dsn,
        event("register", MODEL, model=v1),
        event("promote", MODEL, version="v1"),
        event("register", MODEL, model=version("v2", "slow")),
        event("canary", MODEL, version="v2", weight=SLOW_PERCENT),
        event("register", BUSY, model=version("v1", "busy", max_waiting=BUSY_WAITING)),
        event("promote", BUSY, version="v1"),
    )


def _message(number: int, model: str) -> Message:
    user = f"u{number * 7919 % USERS}"
    request = {"request_id": f"{number}", "model_name": model, "user_id": user, "input": {"x": number}}
    return Message(number % PARTITIONS, user.encode(), orjson.dumps(request))


async def _load(environment: Environment, broker: Broker, name: str, seconds: float) -> LoadRun:
    source, sink = f"bench-overload-{name}-in", f"bench-overload-{name}-out"
    await broker.create(source, sink)
    worker = replace(HEADRACE[0], name=f"headrace-load-{name}")
    with run(worker, environment, {}, source, sink) as running:
        # Answered when the worker has started.
        await broker.fill(source, [_message(0, MODEL)])
        await _until_answered(broker, sink, 1, running)
        rss_bytes: list[int] = []
        sampling = asyncio.create_task(_sample(running, rss_bytes))
        due_ms = await _send(broker.bootstrap, source, seconds)
        ended_ms = time.time() * 1000
        await _until_answered(broker, sink, 1 + len(due_ms), running)
        sampling.cancel()
    others_ms: list[float] = []
    errors: Counter[str] = Counter()
    last_ms = 0
    async for output, response in _responses(broker, sink, 1 + len(due_ms)):
        last_ms = max(last_ms, output.appended_ms)
        if "error" in response:
            errors[f"{response['model_name']}: {response['error']['code']}"] += 1
        elif (
            response["request_id"] != "0"
            and response["model_name"] == MODEL
            and response["model_version"] == "v1"
        ):
            others_ms.append(output.appended_ms - due_ms[int(response["request_id"])])
    refused = errors.pop(f"{BUSY}: OVERLOADED", 0)
    if errors:
        raise WrongAnswerError(f"requests failed in the load {name} a slow version: {dict(errors)}")
    return LoadRun(
        others_ms=others_ms,
        asked_busy=sum(_is_busy(number) for number in due_ms),
        refused=refused,
        errors=errors,
        recovery_seconds=max(0.0, (last_ms - ended_ms) / 1000),
        rss_bytes=rss_bytes,
    )


def _is_busy(number: int) -> bool:
    return number % (OTHERS_RATE + BUSY_RATE) >= OTHERS_RATE


async def _send(bootstrap: str, source: str, seconds: float) -> dict[int, float]:
    """Send both rates from an open loop; the Unix time in ms at which each request was due, by its number."""
    rate = OTHERS_RATE + BUSY_RATE
    due_ms: dict[int, float] = {}
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        began = time.time()
        for number in range(1, int(rate * seconds) + 1):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.time()))
            due_ms[number] = due * 1000
            message = _message(number, BUSY if _is_busy(number) else MODEL)
            await producer.send(source, message.value, key=message.key, partition=message.partition)
    return due_ms


async def _backlog(environment: Environment, broker: Broker, name: str, count: int) -> BacklogRun:
    """Everything waits in Kafka before the worker starts."""
    source, sink = f"bench-backlog-{name}-in", f"bench-backlog-{name}-out"
    await broker.create(source, sink)
    await broker.fill(source, (_message(number, MODEL) for number in range(count)))
    worker = replace(HEADRACE[0], name=f"headrace-backlog-{name}")
    with run(worker, environment, {}, source, sink) as running:
        await _until_answered(broker, sink, count, running)
    first_ms, last_ms, others = sys.maxsize, 0, 0
    async for output, response in _responses(broker, sink, count):
        if "error" in response:
            raise WrongAnswerError(f"a request of the backlog failed: {response['error']}")
        first_ms = min(first_ms, output.appended_ms)
        if response["model_version"] == "v1":
            others += 1
            last_ms = max(last_ms, output.appended_ms)
    return BacklogRun(others, max(last_ms - first_ms, 1) / 1000)


async def _responses(broker: Broker, sink: str, count: int) -> AsyncIterator[tuple[Output, JsonObject]]:
    async for output in broker.read(sink, count):
        yield output, orjson.loads(output.value)


async def _until_answered(broker: Broker, sink: str, count: int, running: Running) -> None:
    answered, moved = 0, time.monotonic()
    while answered < count:
        await asyncio.sleep(_POLL_SECONDS)
        before, answered = answered, await broker.count(sink)
        if answered > before:
            moved = time.monotonic()
        elif time.monotonic() - moved > _STALL_SECONDS or not running.alive:
            raise WrongAnswerError(f"the worker stands still at {answered}:\n{running.log_end}")


async def _sample(running: Running, rss_bytes: list[int]) -> None:
    while True:
        rss_bytes.append(running.rss_bytes)
        await asyncio.sleep(_SAMPLE_SECONDS)


if __name__ == "__main__":
    sys.exit(entry(main))

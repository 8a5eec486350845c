"""The demo's run: train, start the stack, register, serve, replay, stop."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.demo import texts
from deploy.demo.movielens import load_movielens
from deploy.demo.publish import promotion_events, publish
from deploy.demo.ratings import split_by_time
from deploy.demo.replay import replay, requests_of, send
from deploy.demo.scenario import ALS, POPULARITY, DemoRequest, ReplayCounts
from deploy.demo.training import train_all
from deploy.demo.view import print_text, show_live
from deploy.local.process import ChildProcess
from deploy.local.stack import LocalStack
from schemas.events import JsonObject
from streams.cli.output import quiet_libraries
from streams.clients.predict_client import PredictClient
from streams.config.settings import ENV_PREFIX, Settings
from streams.config.sources import ENV_FILE_VARIABLE, load_settings
from streams.setup import prepare_services

# SIGHUP stays ignored under `nohup`.
_STOP_SIGNALS = [
    number
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
]
_WORKER_START_SECONDS = 60.0
_WORKER_END_SECONDS = 15.0
_WORKER_LOG = "worker.log"
_HEADRACE = Path(sys.executable).with_name("headrace")


def run_demo(*, seconds: float | None, requests_per_second: float) -> JsonObject:
    """Run until a signal, or for `seconds` of traffic; returns the result that is printed last.

    Raises HeadraceError, or KeyboardInterrupt for a signal before the traffic begins. All processes that it
    started end in any case. Its folder with the logs stays when requests were lost.
    """
    _on_signals(_interrupt)
    # Settings of another stack in this shell must not apply.
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    kept = False
    try:
        result = _run(folder, seconds=seconds, requests_per_second=requests_per_second)
        kept = result["lost"] > 0
    except Exception:  # the logs have the cause
        # Before the worker starts, the error itself quotes the logs.
        kept = (folder / _WORKER_LOG).exists()
        raise
    finally:
        if kept:
            print_text(f"The logs are in {folder}.")
        else:
            shutil.rmtree(folder)
    return result


def _run(folder: Path, *, seconds: float | None, requests_per_second: float) -> JsonObject:
    movielens = load_movielens(print_text)
    early, late = split_by_time(movielens.ratings)
    print_text(texts.data(movielens.ratings))
    specs = train_all(early, late, folder, _step)
    print_text("Starting a local stack:")
    with LocalStack(folder / "stack", _step) as stack:
        try:
            env_file = _write_env(stack, folder)
            settings = load_settings(env_file).settings
            quiet_libraries(settings)
            asyncio.run(prepare_services(settings, _step))
            asyncio.run(publish(settings, promotion_events(specs[POPULARITY], specs[ALS])))
            print_text(texts.registered())
            with _worker(folder, env_file) as worker:
                traffic = _traffic(
                    settings,
                    requests_of(movielens, late),
                    movielens.titles,
                    texts.commands_to_try(_HEADRACE, ENV_FILE_VARIABLE, env_file, worker.pid),
                    seconds=seconds,
                    requests_per_second=requests_per_second,
                )
                return asyncio.run(traffic)
        finally:
            _on_signals(signal.SIG_IGN)
            _step("stopping Kafka, PostgreSQL and Redis")


async def _traffic(
    settings: Settings,
    requests: Iterator[DemoRequest],
    titles: Sequence[str],
    commands: str,
    *,
    seconds: float | None,
    requests_per_second: float,
) -> JsonObject:
    """Print one request and its response, then replay with the live view until a stop signal."""
    counts = ReplayCounts()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    async with PredictClient(settings) as client:
        first = next(requests)
        response = await send(client, first, counts)
        if response is not None:
            print_text(texts.example(first, response, titles))
        print_text(commands)
        print_text(texts.replaying(requests_per_second, seconds))
        if seconds is not None:
            loop.call_later(seconds, stop.set)
        async with asyncio.TaskGroup() as tasks:
            view = tasks.create_task(show_live(settings, lambda: texts.progress(counts)))
            await replay(client, requests, counts, requests_per_second=requests_per_second, stop=stop)
            view.cancel()
    print_text(texts.progress(counts))
    return counts.summary([POPULARITY, ALS])


def _write_env(stack: LocalStack, folder: Path) -> Path:
    """The settings file by which the worker, and `headrace` in another terminal, find this stack."""
    env_file = folder / "env"
    values = {
        "kafka_bootstrap": stack.kafka_bootstrap,
        "postgres_dsn": stack.postgres_dsn,
        "redis_url": stack.redis_url,
        "artifact_dir": folder / "artifacts",
    }
    env_file.write_text("".join(f"{ENV_PREFIX}{name.upper()}={value}\n" for name, value in values.items()))
    return env_file


@contextmanager
def _worker(folder: Path, env_file: Path) -> Iterator[ChildProcess]:
    """A `headrace worker` that is ready; it drains when the block ends."""
    _step("starting a worker")
    command = [str(_HEADRACE), "worker", "--env-file", str(env_file)]
    worker = ChildProcess("the worker", command, log=folder / _WORKER_LOG)
    try:
        worker.wait_for_line(b"all processes ready", _WORKER_START_SECONDS)
        yield worker
    finally:
        _on_signals(signal.SIG_IGN)
        _step("stopping the worker")
        worker.request_end(signal.SIGTERM)
        worker.wait(_WORKER_END_SECONDS)
        worker.close()


def _step(text: str) -> None:
    print_text(f"  {text}")


def _on_signals(handler: Callable[..., object] | signal.Handlers) -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    # Further signals are ignored during the clean-up, whose duration is bounded.
    _on_signals(signal.SIG_IGN)
    raise KeyboardInterrupt

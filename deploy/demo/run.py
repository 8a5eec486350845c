"""The demo from its first step to its last: train, start, register, serve, replay, end."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.demo import story
from deploy.demo.movielens import load_movielens
from deploy.demo.plan import ALS, POPULARITY, Tally, Visit
from deploy.demo.publish import promotion_events, publish
from deploy.demo.ratings import split_by_time
from deploy.demo.replay import ask, replay, visits
from deploy.demo.training import train_all
from deploy.demo.view import tell, watch
from deploy.local.process import ChildProcess
from deploy.local.stack import LocalStack
from schemas.events import JsonObject
from streams.cli.options import DEFAULT_PARTITIONS
from streams.cli.output import quiet_libraries
from streams.clients.predict_client import PredictClient
from streams.config.settings import ENV_PREFIX, Settings
from streams.config.sources import load_settings
from streams.setup import prepare_services

# `nohup` ignores the end of the terminal for us.
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
    """Run until a signal, or for so many seconds of traffic; returns what the last line says.

    Raises HeadraceError, or KeyboardInterrupt for a signal before the traffic has begun. Nothing that
    it started is left in any case; its folder is left when requests were lost, for its logs.
    """
    _on_signals(_interrupt)
    # Settings of another stack, that this shell may know, are not for this one.
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    kept = False
    try:
        result = _run(folder, seconds=seconds, requests_per_second=requests_per_second)
        kept = result["lost"] > 0
    except Exception:  # whatever failed, the logs say more
        # Until there is a worker, the error itself quotes what the logs say.
        kept = (folder / _WORKER_LOG).exists()
        raise
    finally:
        if kept:
            tell(f"The logs are in {folder}.")
        else:
            shutil.rmtree(folder)
    return result


def _run(folder: Path, *, seconds: float | None, requests_per_second: float) -> JsonObject:
    movielens = load_movielens(tell)
    early, late = split_by_time(movielens.ratings)
    tell(story.data(movielens.ratings))
    specs = train_all(early, late, folder, _step)
    tell("A stack of the demo's own:")
    with LocalStack(folder / "stack", _step) as stack:
        try:
            env_file = _write_env(stack, folder)
            settings = load_settings(env_file).settings
            quiet_libraries(settings)
            asyncio.run(prepare_services(settings, DEFAULT_PARTITIONS, _step))
            asyncio.run(publish(settings, promotion_events(specs[POPULARITY], specs[ALS])))
            tell(story.registered())
            with _worker(folder, env_file) as worker:
                traffic = _traffic(
                    settings,
                    visits(movielens, late),
                    movielens.titles,
                    story.what_to_try(_HEADRACE, env_file, worker.pid),
                    seconds=seconds,
                    requests_per_second=requests_per_second,
                )
                return asyncio.run(traffic)
        finally:
            _on_signals(signal.SIG_IGN)
            _step("stopping Kafka, PostgreSQL and Redis")


async def _traffic(
    settings: Settings,
    requests: Iterator[Visit],
    titles: Sequence[str],
    invitation: str,
    *,
    seconds: float | None,
    requests_per_second: float,
) -> JsonObject:
    """Show one request whole, then replay under the live view; a signal is the orderly end."""
    tally = Tally()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    async with PredictClient(settings) as client:
        first = next(requests)
        response = await ask(client, first, tally)
        if response is not None:
            tell(story.example(first, response, titles))
        tell(invitation)
        tell(story.replaying(requests_per_second, seconds))
        if seconds is not None:
            loop.call_later(seconds, stop.set)
        async with asyncio.TaskGroup() as together:
            watching = together.create_task(watch(settings, lambda: story.progress(tally)))
            await replay(client, requests, tally, requests_per_second=requests_per_second, stop=stop)
            watching.cancel()
    tell(story.progress(tally))
    return tally.closed([POPULARITY, ALS])


def _write_env(stack: LocalStack, folder: Path) -> Path:
    """The file that leads the worker, and `headrace` in another terminal, to this stack."""
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
    """A `headrace worker` that is ready; it drains at the end."""
    _step("starting a worker")
    command = [str(_HEADRACE), "worker", "--env-file", str(env_file)]
    worker = ChildProcess("the worker", command, log=folder / _WORKER_LOG)
    try:
        worker.wait_for_line(b"worker ready", _WORKER_START_SECONDS)
        yield worker
    finally:
        _on_signals(signal.SIG_IGN)
        _step("stopping the worker")
        worker.request_end(signal.SIGTERM)
        worker.wait(_WORKER_END_SECONDS)
        worker.close()


def _step(text: str) -> None:
    tell(f"  {text}")


def _on_signals(handler: Callable[..., object] | signal.Handlers) -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    # Later signals wait for the end of the clean-up, which is bounded.
    _on_signals(signal.SIG_IGN)
    raise KeyboardInterrupt

"""`headrace up` and `headrace init`: start the local services, prepare services for workers."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Never

import typer

from streams.cli.options import EnvFile, Partitions, SetFlags, command_settings

if TYPE_CHECKING:
    from deploy.local.stack import LocalStack
    from streams.config.settings import Settings

DataDir = Annotated[
    Path, typer.Option(metavar="FOLDER", help="Folder of the services' data and of the file `env`.")
]
_POLL_SECONDS = 0.5
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(*, data_dir: DataDir = Path("data"), partitions: Partitions = None) -> None:
    """Start local Kafka, PostgreSQL and Redis until Ctrl-C.

    Creates topics and tables, and writes the addresses for the other verbs to DATA_DIR/env. Prints `ready` on
    standard output when all three serve. The next start on the same folder has the same addresses, unless another
    program has taken their ports. Needs Java 17 or newer, and Maven the first time.
    """
    import asyncio

    from schemas.errors import SetupError
    from streams.config.sources import load_settings
    from streams.setup import prepare_services

    try:
        from deploy.local.stack import LocalStack
    except ModuleNotFoundError as error:
        raise SetupError(f"{error.name} is not installed; install headrace with its extra `local`") from None

    for number in _STOP_SIGNALS:
        # Under `nohup` SIGHUP is ignored already, and stays so.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt_once)
    env_file = data_dir / "env"
    with _progress() as report:
        stack = LocalStack(data_dir, report)
        stack.start()
    try:
        addresses = {
            "kafka_bootstrap": stack.kafka_bootstrap,
            "postgres_dsn": stack.postgres_dsn,
            "redis_url": stack.redis_url,
        }
        own = [f"{name}={value}" for name, value in addresses.items()]
        settings = load_settings(flags=[*own, "kafka_security_protocol=PLAINTEXT"]).settings
        with _progress() as report:
            asyncio.run(prepare_services(settings, report, partitions=partitions))
        _write_whole(env_file, env_text(addresses, settings))
        _print_next_step(env_file)
        print("ready", flush=True)
        _wait_until_a_server_ends(stack)
    except KeyboardInterrupt:
        # Ctrl-C is the usual end, not a failure.
        return
    finally:
        env_file.unlink(missing_ok=True)
        with _progress() as report:
            # The terminal may be closed; the servers must end all the same.
            with suppress(OSError):
                report("stopping Kafka, PostgreSQL and Redis")
            stack.stop()


def init(*, partitions: Partitions = None, env_file: EnvFile = None, flags: SetFlags = None) -> None:
    """Create the topics and the registry's tables.

    Needs running services. Safe to repeat: what exists stays as it is. With --partitions, topics with traffic that
    have fewer partitions get more, while workers run.
    """
    import asyncio

    from streams.setup import prepare_services

    settings = command_settings(env_file, flags)
    asyncio.run(prepare_services(settings, print, partitions=partitions))
    print("ready")


def env_text(addresses: Mapping[str, str], settings: "Settings") -> str:
    """PURE. The text of the env file: the addresses, and the names of topics that differ from the defaults."""
    topics = {
        name: value
        for name, value in settings.model_dump(exclude_defaults=True).items()
        if name.startswith("topic_")
    }
    return "".join(f"HEADRACE_{name.upper()}={value}\n" for name, value in {**addresses, **topics}.items())


def _write_whole(file: Path, text: str) -> None:
    """Write with access for this user only (the text has a password), and replace the file at once."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")
    new.replace(file)


def _print_next_step(env_file: Path) -> None:
    from streams.config.sources import DEFAULT_ENV_FILE

    option = "" if env_file == DEFAULT_ENV_FILE else f" --env-file {env_file}"
    print(
        f"The addresses are in {env_file}. Next, in another terminal: `headrace worker{option}`. "
        "Ctrl-C here stops everything.",
        file=sys.stderr,
    )


def _wait_until_a_server_ends(stack: "LocalStack") -> Never:
    """Poll the servers. Raises SetupError when one ends by itself; a signal raises KeyboardInterrupt."""
    from schemas.errors import SetupError

    while True:
        ended = stack.ended()
        if ended:
            raise SetupError(f"{' and '.join(ended)} ended unexpectedly; see the logs below {stack.data_dir}")
        time.sleep(_POLL_SECONDS)


def _interrupt_once(*_: object) -> Never:
    """Raise KeyboardInterrupt at the first signal; ignore later ones, since the clean-up has a limit."""
    for each in _STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Report steps: on a terminal with a spinner, elsewhere as lines."""
    from streams.cli.output import console

    terminal = console(to_stderr=True)
    if not terminal.is_terminal:
        yield lambda step: print(f"headrace: {step}", file=sys.stderr, flush=True)
        return
    with terminal.status("") as status:
        yield lambda step: status.update(f"{step} …")

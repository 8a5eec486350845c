"""The names of models and versions on the command line: lists, near names for unknown ones, and completion in bash."""

import asyncio
import subprocess
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from registry.alert_events import AlertEvents
from registry.heartbeats import Heartbeats
from registry.metric_windows import MetricWindows
from registry.postgres import Database
from registry.worker_heartbeat import WorkerHeartbeat
from schemas.events import Alert
from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from tests.support.metrics.deltas import delta
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.stack.command import HEADRACE, environment, headrace

FRAUD, CANCER = "fraud", "cancer"


@pytest.fixture
async def settings(database: str) -> Settings:
    """Two models; one has a canary, and requests were counted for it."""
    await apply(
        database,
        event("register", CANCER, model=spec("v1")),
        event("register", FRAUD, model=spec("2026-11")),
        event("register", FRAUD, model=spec("2026-12")),
        event("promote", FRAUD, version="2026-11"),
        event("canary", FRAUD, version="2026-12", weight=12.5),
    )
    return Settings.model_validate({"postgres_dsn": database})


async def test_status_without_a_model_lists_all(settings: Settings, database: str) -> None:
    """Production, canaries, requests a second, alerts, and the workers that are behind."""
    opened = await Database.connect(database)
    begin = datetime.now(UTC) - timedelta(seconds=12)
    counted = [
        delta(
            seq,
            at=begin + timedelta(seconds=seq),
            model_name=FRAUD,
            model_version="2026-11",
            latencies=(1.0,) * 30,
        )
        for seq in range(2)
    ]
    await MetricWindows(opened).add("t", 0, counted)
    firing = {
        "alert_id": "1", "model_name": FRAUD, "model_version": "2026-12", "rule": "error_rate", "severity": "critical",
        "state": "firing", "value": 1.0, "threshold": 0.5, "window_seconds": 60.0, "at": "2026-11-29T22:00:00Z",
    }  # fmt: skip
    await AlertEvents(opened).record(Alert.model_validate(firing))
    await Heartbeats(opened).record(WorkerHeartbeat("w1", "x", 5))
    await Heartbeats(opened).record(WorkerHeartbeat("w2", "x", 5, {FRAUD: "2026-12 cannot be loaded"}))
    async with opened.connection() as connection:
        # They stay live, however slow this machine is.
        await connection.execute("UPDATE worker_heartbeats SET sent_at = now() + interval '1 hour'")
    told, drawn = await asyncio.gather(
        headrace("status", "--json", settings=settings), headrace("status", settings=settings)
    )
    await opened.close()
    assert told.documents == [
        {
            "models": [
                {"model_name": CANCER, "revision": 1, "production": None, "canaries": {}, "requests_per_second": None,
                 "alerts": 0, "serving": 2, "behind": 0},
                {"model_name": FRAUD, "revision": 4, "production": "2026-11", "canaries": {"2026-12": 12.5},
                 "requests_per_second": 1.0, "alerts": 1, "serving": 1, "behind": 1},
            ],
            "global_alerts": 0,
            "live_workers": 2,
        }
    ]  # fmt: skip
    heading, cancer, fraud = drawn.stdout.splitlines()
    assert heading.split() == ["model", "production", "canaries", "revision", "req/s", "alerts", "workers"]
    assert cancer.split() == [CANCER, "-", "1", "-", "-", "2"]
    assert fraud.split() == [FRAUD, "2026-11", "2026-12", "12.5%", "4", "1.0", "1", "1", "of", "2", "behind"]


async def test_an_empty_registry_says_how_to_begin(database: str) -> None:
    """And no list has a line."""
    settings = Settings.model_validate({"postgres_dsn": database})
    assert "`headrace register`" in (await headrace("status", settings=settings)).stdout
    listed = await headrace("models", settings=settings)
    assert (listed.code, listed.stdout) == (0, "")


async def test_models_are_listed_by_name(settings: Settings) -> None:
    """For people a line each, for programs a list."""
    assert (await headrace("models", settings=settings)).stdout == f"{CANCER}\n{FRAUD}\n"
    assert (await headrace("models", "--json", settings=settings)).documents == [[CANCER, FRAUD]]


async def test_unknown_names_suggest_near_ones(settings: Settings) -> None:
    """By every verb that takes a name, also where the registry refuses a change."""
    near = f"headrace: UNKNOWN_MODEL: there is no model fruad; did you mean {FRAUD}?"
    far = "headrace: UNKNOWN_MODEL: there is no model weather; `headrace models` lists all"
    for verb in (
        ["status", "fruad"],
        ["versions", "fruad"],
        ["history", "fruad"],
        ["route", "fruad", "--user", "u"],
        ["metrics", "fruad"],
        ["alerts", "rules", "fruad"],
        ["promote", "fruad", "2026-11", "--direct"],
    ):
        ended = await headrace(*verb, settings=settings)
        assert (ended.code, ended.stderr.strip()) == (REFUSED, near), verb
        ended = await headrace(
            verb[0], *("weather" if word == "fruad" else word for word in verb[1:]), settings=settings
        )
        assert ended.stderr.strip() == far, verb
    unknown = await headrace("promote", FRAUD, "2026-21", "--direct", settings=settings)
    assert (
        unknown.stderr == "headrace: UNKNOWN_VERSION: fraud has no version 2026-21; did you mean 2026-12?\n"
    )
    unknown = await headrace("archive", FRAUD, "x", "--direct", settings=settings)
    assert unknown.stderr == (
        "headrace: UNKNOWN_VERSION: fraud has no version x; `headrace versions fraud` lists all\n"
    )


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        (["sta"], ["status"]),
        (["status", ""], [CANCER, FRAUD]),
        (["status", "f"], [FRAUD]),
        (["promote", FRAUD, "2026-1"], ["2026-11", "2026-12"]),
        (["rollback", FRAUD, "--version", ""], ["2026-11", "2026-12"]),
        (["metrics", FRAUD, "2026-11", "2026-12"], ["2026-12"]),
        (["split", FRAUD, "2026-12"], ["2026-12="]),
        (["alerts", "rules", ""], [CANCER, FRAUD]),
        (["promote", "nobody", ""], []),
    ],
)
def test_bash_completes_names(settings: Settings, line: list[str], completed: list[str]) -> None:
    """By the script that `headrace --show-completion` prints."""
    assert complete(line, settings) == (completed, "")


def test_completion_is_silent_without_a_registry() -> None:
    """A message would stand in the line that the user types."""
    nowhere = Settings.model_validate({"postgres_dsn": "postgresql://127.0.0.1:1/headrace"})
    assert complete(["status", ""], nowhere) == ([], "")


def complete(words: list[str], settings: Settings) -> tuple[list[str], str]:
    """The completions of `headrace WORDS` in bash, and what is written to standard error."""
    typed = " ".join(f"'{word}'" for word in ["headrace", *words])
    script = f"""
        eval "$(_HEADRACE_COMPLETE=source_bash {HEADRACE})"
        COMP_WORDS=({typed}); COMP_CWORD={len(words)}
        _headrace_completion {HEADRACE}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    ended = subprocess.run(
        ["bash", "-c", script], env=environment(settings), capture_output=True, text=True, check=True
    )
    return ended.stdout.split(), ended.stderr


async def test_output_is_written_in_ascii_too(settings: Settings) -> None:
    """The bars, arrows and names of a terminal without Unicode."""
    await headrace("archive", CANCER, "v1", "--reason", "für Zoë", "--direct", settings=settings)
    ascii_only = environment(settings) | {"PYTHONIOENCODING": "ascii"}

    def run(*verb: str) -> str:
        ended = subprocess.run([HEADRACE, *verb], env=ascii_only, capture_output=True, text=True, check=True)
        assert ended.stderr == ""
        return ended.stdout

    assert "#" * 35 in run("status", FRAUD)
    assert "2026-11 100 -> 87.5%" in run("history", FRAUD)
    assert "f\\xfcr Zo\\xeb" in run("history", CANCER)
    assert orjson.loads(run("history", CANCER, "--json"))[1]["reason"] == "für Zoë"

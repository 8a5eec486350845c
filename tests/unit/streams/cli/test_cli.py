"""streams/cli: quick to start, and its errors are told to people and to programs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import (
    BrokerUnavailableError,
    HeadraceError,
    InvalidRequestError,
    PromotionRejectedError,
    RejectionCode,
    ResponseTimeoutError,
    SetupError,
)
from streams.cli.failures import classify
from streams.cli.request_lines import Defaults, count_lines, parse_line
from tests.support.stack.command import headrace

HEAVY = {
    "aiokafka", "asyncio", "asyncpg", "faust", "httpx", "jsonschema_rs", "numpy", "onnxruntime", "orjson",
    "psutil", "pydantic", "redis", "rich", "structlog",
}  # fmt: skip


def test_registering_the_verbs_imports_nothing_heavy() -> None:
    """`headrace --help` and the start of every verb stay cheap: a verb imports what it needs when it runs."""
    listing = "import sys, streams.cli.main; print(*{name.split('.')[0] for name in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert HEAVY & set(ended.stdout.split()) == set()


def test_a_rollback_over_kafka_imports_nothing_that_it_does_not_need() -> None:
    """It is on its way in a quarter of a second; databases and drawing are for when they are asked for."""
    used = "streams.cli.main, streams.clients.promotion_client, streams.config.sources, registry.routing"
    listing = f"import sys, {used}; print(*{{name.split('.')[0] for name in sys.modules}})"
    ended = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert HEAVY & set(ended.stdout.split()) == {"aiokafka", "asyncio", "orjson", "pydantic"}


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (SetupError("x"), 1, "SETUP"),
        (HeadraceError("x"), 1, "FAILED"),
        (PromotionRejectedError(RejectionCode.BAD_WEIGHT, "x"), 2, "BAD_WEIGHT"),
        (InvalidRequestError("x"), 2, "INVALID_REQUEST"),
        (BrokerUnavailableError("x"), 3, "UNAVAILABLE"),
        (ResponseTimeoutError("r", 1), 3, "UNAVAILABLE"),
    ],
)
def test_exit_codes_follow_the_error_tree(error: HeadraceError, exit_code: int, code: str) -> None:
    """Scripts branch on these."""
    failure = classify(error)
    assert (failure.exit_code, failure.code) == (exit_code, code)


async def test_an_error_is_told_to_people_and_with_json_to_programs(tmp_path: Path) -> None:
    """Words on standard error always, one JSON object on standard output when asked for."""
    plain = await headrace("config", "--env-file", "absent", cwd=tmp_path)
    assert (plain.code, plain.stdout) == (1, "")
    assert plain.stderr == "headrace: the env file absent cannot be read: No such file or directory\n"
    asked = await headrace("config", "--env-file", "absent", "--json", cwd=tmp_path)
    assert (asked.code, asked.stderr) == (1, plain.stderr)
    assert asked.documents == [
        {
            "error": {
                "code": "SETUP",
                "message": "the env file absent cannot be read: No such file or directory",
            }
        }
    ]


async def test_wrong_usage_has_its_own_exit_code(tmp_path: Path) -> None:
    """An unknown verb and half a request are usage errors, without a traceback."""
    for arguments in (("no-such-verb",), ("predict", "m", "--input", "{}")):
        ended = await headrace(*arguments, cwd=tmp_path)
        assert ended.code == 2
        assert ended.stderr.startswith("Usage: headrace")
        assert "Traceback" not in ended.stderr


async def test_config_shows_origins_and_no_password(tmp_path: Path) -> None:
    """Every setting with its origin; a URL keeps its host and loses its password."""
    env_file = tmp_path / "stack"
    env_file.write_text(
        "HEADRACE_REDIS_URL=redis://someone:hunter2@cache:6379/0\n"
        "HEADRACE_KAFKA_SASL_PASSWORD=hunter2\nHEADRACE_KAFKA_BOTSTRAP=x:1\n"
    )
    arguments = ("config", "--env-file", "stack", "--set", "log_level=debug")
    table = await headrace(*arguments, cwd=tmp_path)
    rows = [line.split() for line in table.stdout.splitlines()]
    assert ["HEADRACE_REDIS_URL", "redis://someone:***@cache:6379/0", "stack"] in rows
    assert ["HEADRACE_KAFKA_SASL_PASSWORD", "***", "stack"] in rows
    assert ["HEADRACE_LOG_LEVEL", "debug", "flag"] in rows
    assert ["HEADRACE_KAFKA_BOOTSTRAP", "127.0.0.1:9092", "default"] in rows
    assert "did you mean HEADRACE_KAFKA_BOOTSTRAP" in table.stderr
    document = json.loads((await headrace(*arguments, "--json", cwd=tmp_path)).stdout)
    by_name = {row["name"]: row for row in document}
    assert by_name["HEADRACE_REDIS_URL"]["value"] == "redis://someone:***@cache:6379/0"
    assert by_name["HEADRACE_SLICES_IN_FLIGHT"]["value"] == 8
    assert "hunter2" not in table.stdout + table.stderr + json.dumps(document)


DEFAULTS = Defaults("m", None, None)


def test_a_line_may_say_everything_but_the_model() -> None:
    """Fields of a line go before the defaults; a request without an id gets one."""
    defaults = Defaults("m", "default-user", 500)
    bare = parse_line(b'{"input": {"n": 1}}', 1, defaults)
    assert (bare.model_name, bare.user_id, bare.deadline_ms, bare.input) == (
        "m",
        "default-user",
        500,
        {"n": 1},
    )
    full = parse_line(b'{"request_id": "r", "user_id": "u", "deadline_ms": 9, "input": {}}', 2, defaults)
    assert (full.request_id, full.user_id, full.deadline_ms) == ("r", "u", 9)
    assert bare.request_id != parse_line(b'{"input": {}}', 3, defaults).request_id


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"nonsense", "not valid JSON"),
        (b"[]", "a JSON object is needed"),
        (b'{"user_id": "u"}', "input: Field required"),
        (b'{"input": {}}', "user_id: Field required"),
        (b'{"user_id": "u", "input": {}, "model_name": "other"}', "its model is other, not m"),
        (b'{"user_id": 7, "input": {}}', "user_id"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(line: bytes, told: str) -> None:
    """The number of the line and what is wrong with it."""
    with pytest.raises(InvalidRequestError, match=r"^line 7: ") as refusal:
        parse_line(line, 7, DEFAULTS)
    assert told in str(refusal.value)


@pytest.mark.parametrize(("content", "count"), [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("\n\n", 2)])
def test_lines_of_a_file_are_counted_without_moving_on(tmp_path: Path, content: str, count: int) -> None:
    """The progress bar needs the number first; the file is read from the same place afterwards."""
    path = tmp_path / "lines"
    path.write_text(content)
    with path.open("rb", buffering=0) as file:
        assert count_lines(file.fileno()) == count
        assert file.read() == content.encode()

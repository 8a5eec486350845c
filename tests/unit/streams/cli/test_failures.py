"""streams/cli/failures.py: exit codes, text and JSON of an error."""

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
from streams.config.settings import Settings
from tests.support.stack.command import headrace


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (SetupError("x"), 1, "SETUP"),
        (HeadraceError("x"), 1, "FAILED"),
        (PromotionRejectedError(RejectionCode.BAD_WEIGHT, "x"), 5, "BAD_WEIGHT"),
        (InvalidRequestError("x"), 5, "INVALID_REQUEST"),
        (BrokerUnavailableError("x"), 3, "UNAVAILABLE"),
        (ResponseTimeoutError("r", 1), 3, "UNAVAILABLE"),
    ],
)
def test_exit_codes_follow_the_error_tree(error: HeadraceError, exit_code: int, code: str) -> None:
    """Scripts branch on these."""
    failure = classify(error)
    assert (failure.exit_code, failure.code) == (exit_code, code)


async def test_an_error_is_told_to_people_and_with_json_to_programs(tmp_path: Path) -> None:
    """Standard error has the text; with --json standard output has one JSON object."""
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


async def test_a_command_in_a_folder_without_an_env_file_says_so(tmp_path: Path) -> None:
    """The addresses that it tried are the defaults, and not those of the stack in another folder."""
    address = "kafka_bootstrap=127.0.0.1:1"
    missing = await headrace("top", "--once", "--set", address, cwd=tmp_path)
    assert missing.code == 3
    assert "There is no env file data/env in this folder" in missing.stderr
    named = await headrace("top", "--once", settings=Settings(kafka_bootstrap="127.0.0.1:1"), cwd=tmp_path)
    assert named.code == 3
    assert "no env file" not in named.stderr
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "env").write_text("")
    found = await headrace("top", "--once", "--set", address, cwd=tmp_path)
    assert found.code == 3
    assert "no env file" not in found.stderr

"""workers/network/tokens.py: tokens of a setting and of files that change."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from workers.network.tokens import LOOK_EACH_SECONDS, BearerToken, token_in


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("abc\n", "abc"),
        (json.dumps({"management": {"key": "m"}, "inference": {"key": "i", "expiration time": "…"}}), "i"),
        ("", ""),
        ("a\nb", ""),
        ("ä", ""),
        ("{", ""),
        ("{}", ""),
        ('{"inference": {"key": 1}}', ""),
        ('{"inference":' * 100_000, ""),
    ],
)
def test_the_token_in_a_file(text: str, token: str) -> None:
    """The text, or TorchServe's key for predictions; nothing that a header cannot have."""
    assert token_in(text) == token


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """Without a restart; between two looks, and while it is away, the last token stays."""
    clock = Clock()
    file = tmp_path / "token"
    token = BearerToken(f"@{file}", clock)

    def looked() -> str:
        clock.now += LOOK_EACH_SECONDS
        return token.current()

    with capture_logs() as logged:
        assert looked() == ""
        assert looked() == ""
        file.write_text("first")
        assert token.current() == ""
        assert looked() == "first"
        file.write_text("the second")
        assert token.current() == "first"
        assert looked() == "the second"
        file.unlink()
        assert looked() == "the second"
        file.write_text("\n")
        assert looked() == "the second"
    assert [each["event"] for each in logged] == [
        "token file cannot be read",
        "token file read",
        "token file read",
        "token file cannot be read",
        "token file has no token",
    ]
    assert "second" not in str(logged)


def test_a_token_of_the_setting_stays() -> None:
    """It is not looked for anywhere."""
    assert BearerToken("abc").current() == "abc"

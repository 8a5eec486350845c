"""streams/cli/request_lines.py: requests from lines, with defaults and line numbers."""

from pathlib import Path

import pytest

from schemas.errors import InvalidRequestError
from streams.cli.request_lines import Defaults, count_lines, parse_line

DEFAULTS = Defaults("m", None, None)


def test_a_line_may_say_everything_but_the_model() -> None:
    """The fields of a line replace the defaults; a request without an id gets one."""
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
    """The message has the number of the line and the fault."""
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

"""streams/cli/output.py: every text can be written, whatever the encoding of standard output."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.cli.output import json_line, write_in_any_encoding


def written(text: str, encoding: str) -> str:
    """What a stream of an encoding has after `text` was written to it."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        write_in_any_encoding()
        stream.write(text)
        stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("text", "ascii_text"),
    [
        ("v1 0 → 5%", "v1 0 -> 5%"),
        ("████▍", "####."),
        ("Zoë", "Zo\\xeb"),
        ("too long…", "too long..."),
        ("\udcff", "\\udcff"),
    ],
)
def test_ascii_has_substitutes_and_escapes(text: str, ascii_text: str) -> None:
    """Headrace's own signs stay readable, and names stay recognisable."""
    assert written(text, "ascii") == ascii_text


@given(text=st.text(), encoding=st.sampled_from(["ascii", "latin-1", "cp1252", "utf-8"]))
def test_no_text_is_refused(text: str, encoding: str) -> None:
    """What the encoding has is written as it is."""
    shown = written(text, encoding)
    if text.isascii():
        assert shown == text.replace("\r\n", "\n")


@given(
    document=st.recursive(st.none() | st.integers(0, 2**53) | st.text(st.characters(codec="utf-8")), st.lists)
)
def test_json_is_json_in_every_encoding(document: object) -> None:
    """Escaped as JSON does it, which every parser reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        line = json_line(document)
    assert line.isascii()
    assert json.loads(line) == document

"""streams/cli/main.py: `headrace --help` lists the verbs by purpose and fits a terminal."""

from pathlib import Path

import pytest

from tests.support.stack.command import headrace

COLUMNS = 80


@pytest.mark.parametrize("verb", [(), ("alerts",)])
async def test_every_summary_fits_a_line(
    verb: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No summary is cut with an ellipsis or wrapped, and each verb is in one of the named sections."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    shown = await headrace(*verb, "--help", cwd=tmp_path)
    assert shown.code == 0
    _, _, listing = shown.stdout.partition("show this message and exit.".capitalize())
    rows = [line for line in listing.splitlines() if line.startswith("  ")]
    titles = [line for line in listing.splitlines() if line and not line.startswith(" ")]
    assert len(rows) == (2 if verb else 23)
    assert all(title.endswith(":") for title in titles)
    assert ("Commands:" in titles) is bool(verb)
    for row in rows:
        assert not row.startswith("   "), "a summary is wrapped"
        assert row.endswith("."), "a summary is cut or is no sentence"
        assert "..." not in row
        assert len(row) <= COLUMNS

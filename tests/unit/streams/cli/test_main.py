"""streams/cli/main.py: quick to start, wrong usage, and help that fits a terminal."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from streams.cli.main import app
from tests.support.stack.command import headrace

COLUMNS = 80
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
    """A rollback starts in a quarter of a second: database drivers and rich are imported only when needed."""
    used = "streams.cli.main, streams.clients.promotion_client, streams.config.sources, registry.routing"
    listing = f"import sys, {used}; print(*{{name.split('.')[0] for name in sys.modules}})"
    ended = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert HEAVY & set(ended.stdout.split()) == {"aiokafka", "asyncio", "orjson", "pydantic"}


async def test_wrong_usage_has_its_own_exit_code(tmp_path: Path) -> None:
    """An unknown verb and half a request are usage errors, without a traceback."""
    for arguments in (("no-such-verb",), ("predict", "m", "--input", "{}")):
        ended = await headrace(*arguments, cwd=tmp_path)
        assert ended.code == 2
        assert ended.stderr.startswith("Usage: headrace")
        assert "Traceback" not in ended.stderr


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
    group: Any = get_command(app)
    for name in verb:
        group = group.commands[name]
    assert sorted(row.split()[0] for row in rows) == sorted(group.commands)
    assert all(title.endswith(":") for title in titles)
    assert ("Commands:" in titles) is bool(verb)
    for row in rows:
        assert not row.startswith("   "), "a summary is wrapped"
        assert row.endswith("."), "a summary is cut or is no sentence"
        assert "..." not in row
        assert len(row) <= COLUMNS

"""The commands of docs/monitoring.md, word for word, on a real database with windows as the monitor writes them."""

import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from registry.metric_windows import MetricWindows
from registry.postgres import Database
from tests.support.metrics.deltas import delta
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.stack.command import Ended, headrace
from tests.support.stack.services import MakeTopics

_PAGE = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")
FAST, SLOW = 10.0, 50.0


def commands() -> list[list[str]]:
    """All that ask for figures or are about alerts, in the order of the page."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", _PAGE, re.DOTALL | re.MULTILINE)
    lines = [
        shlex.split(line, comments=True)
        for block in blocks
        for line in block.splitlines()
        if line.startswith(".venv/bin/headrace")
    ]
    return [words[1:] for words in lines if words[1] in ("metrics", "alerts")]


async def test_every_command_does_what_the_page_says(
    topics: MakeTopics, database: str, tmp_path: Path
) -> None:
    """Two versions, one of them five times as slow, and the rules of the page's example."""
    events = [event("register", "fraud", model=spec(version)) for version in ("v1", "v2")]
    changes = [event("promote", "fraud", version="v1"), event("canary", "fraud", version="v2", weight=40)]
    await apply(database, *events, *changes)
    settings = await topics(1, postgres_dsn=database)
    opened = await Database.connect(database)
    now = datetime.now(UTC)
    deltas = [
        delta(
            seq, at=now - timedelta(minutes=5), latencies=latencies, model_name="fraud", model_version=version
        )
        for seq, (version, latencies) in enumerate({"v1": (FAST,) * 60, "v2": (SLOW,) * 40}.items())
    ]
    await MetricWindows(opened).add(settings.topic_metrics, 0, deltas)
    await opened.close()
    (example,) = re.findall(r"```json\n(.*?)```", _PAGE, re.DOTALL)
    (tmp_path / "rules.json").write_text(example)
    (tmp_path / "global.json").write_text('{"consumer_lag": {"enabled": false}}')

    told: dict[str, Ended] = {}
    for words in commands():
        told[" ".join(words)] = ended = await headrace(*words, settings=settings, cwd=tmp_path)
        assert ended.code == 0, (words, ended.stderr)

    whole = told["metrics fraud"].stdout
    assert re.search(r"^requests +60 +40 +-20 +-33.3$", whole, re.MULTILINE)
    two = told["metrics fraud v1 v2 --since 15m"].stdout
    assert "in windows of 10 s" in two
    fast, slow, more = map(float, re.findall(r"^p99 ms +(\S+) +(\S+) +\+(\S+) +\+\S+$", two, re.MULTILINE)[0])
    assert abs(fast / FAST - 1) < 0.011
    assert abs(slow / SLOW - 1) < 0.011
    assert abs(more - (slow - fast)) < 0.02
    (document,) = told["metrics fraud --since 30d --json"].documents
    assert document["resolution_seconds"] == 3600
    assert document["versions"]["v2"]["requests"] == 40
    rules = told["alerts rules fraud"]
    assert orjson.loads(rules.stdout)["error_rate"]["objective_percent"] == 99.9
    assert "a batch model" in rules.stderr
    assert sum("--reason" in words for words in told) == 1

"""streams/cli/config.py: every setting with value and origin, and no secret."""

import json
from pathlib import Path

from tests.support.stack.command import headrace


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

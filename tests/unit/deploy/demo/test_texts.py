"""deploy/demo/texts.py: the texts have the values of the run."""

from pathlib import Path

from deploy.demo import texts
from deploy.demo.scenario import MODEL_NAME, DemoRequest, ReplayCounts
from schemas.events import PredictResponse


def test_an_example_has_the_titles_of_its_predictions() -> None:
    """The request and the response are JSON documents as on the topics."""
    response = PredictResponse.model_validate(
        {"request_id": "r1", "model_name": MODEL_NAME, "model_version": "v1", "user_id": "u1", "revision": 4}
        | {"predictions": [1, 0], "cached": False, "stale": False, "latency_ms": 1.0}
    )
    text = texts.example(DemoRequest("u1", 0), response, ["Fargo", "Get Shorty"])
    assert '"user_id":"u1","input":{"user_idx":0}}' in text
    assert text.endswith("The films: Get Shorty | Fargo")


def test_progress_has_the_last_error_after_one() -> None:
    """Before the first error it has the counts only."""
    counts = ReplayCounts(sent=1200, answered=1100)
    assert texts.progress(counts).startswith("1,200 requests sent, 1,100 answered")
    assert "error:" not in texts.progress(counts)
    counts.last_error = "INTERNAL: no luck"
    assert texts.progress(counts).endswith("The last error: INTERNAL: no luck")


def test_the_commands_use_the_settings_file_of_the_demo() -> None:
    """The first line exports it, and every command is that of the demo's own installation."""
    text = texts.commands_to_try(Path("/bin/headrace"), "VARIABLE", Path("/tmp/env"), 42)
    assert "export VARIABLE=/tmp/env" in text
    assert "kill -9 42; /bin/headrace worker" in text

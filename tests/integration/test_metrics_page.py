"""`/metrics` of a real worker, compared with its requests and responses."""

import asyncio
from collections import Counter
from pathlib import Path

from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_model import LARGEST_OUTPUT, serve_model
from tests.support.promotions.events import event, publish
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.http_pages import scraped
from tests.support.worker.process import StartWorker

REQUESTS = 600


async def test_counters_are_exactly_what_was_answered(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Of all roles at once; they go on counting through a promotion."""
    model = await serve_model(database, tmp_path, canary_percent=30)
    settings = await topics(PARTITIONS, postgres_dsn=database, http_port=0, worker_name="one")
    worker = start_worker(settings, "predict,control,monitor,log")
    url = f"http://127.0.0.1:{(await worker.logged('http served'))['port']}"
    await worker.ready()
    before = await scraped(url)
    canary = {"process": "predict", "model_name": model, "model_version": "v2"}
    assert before.value("headrace_requests_total", **canary, outcome="ok") == 0
    assert before.value("headrace_traffic_weight_ratio", **canary) == 0.3
    assert before.value("headrace_waiting_requests", **canary) == 0
    users = [f"u{number}" for number in range(100)]
    async with asking(settings) as asker:
        answers = await asker.ask(model, [number % 200 for number in range(REQUESTS)], users=users)
        answers += await asker.ask(model, [*range(-40, 0), LARGEST_OUTPUT // 3 + 1], users=users)
        answers += await asker.ask("nobody-knows-it", range(10))
        await publish(settings, event("promote", model, version="v2"), event("promote", "nobody-knows-it"))
        shown = await scraped(
            url,
            lambda page: page.value("headrace_traffic_weight_ratio", **canary) == 1,
            "the promotion",
        )
        answers += await asker.ask(model, range(1000, 1050), users=users)
    revision = shown.value("headrace_model_revision", process="predict", model_name=model)
    assert revision == before.value("headrace_model_revision", process="predict", model_name=model) + 1
    shown = await scraped(
        url,
        lambda page: (
            page.total("headrace_log_responses_total", outcome="written") == len(answers)
            and page.total("headrace_promotions_total") == 2
            and "headrace_group_lag_records" in page.names
            # A sample that was taken while the promotion was followed says so until the next one.
            and "one" in page.labels("headrace_worker_epochs_behind", "worker")
            and page.value("headrace_worker_epochs_behind", process="monitor", worker="one") == 0
        ),
        "what the other roles do",
    )

    ok = Counter(answer.model_version for answer in answers if answer.error is None)
    failed = Counter(
        (answer.model_version, answer.error.code) for answer in answers if answer.error is not None
    )
    assert set(ok) == {"v1", "v2"}
    assert {code for _, code in failed} == {"INVALID_INPUT", "INVALID_OUTPUT", "UNKNOWN_MODEL"}
    for version, count in ok.items():
        of = {"process": "predict", "model_name": model, "model_version": version}
        answered = [answer for answer in answers if answer.model_version == version]
        assert shown.value("headrace_requests_total", **of, outcome="ok") == count
        hits = sum(answer.cached for answer in answered if answer.error is None)
        assert shown.value("headrace_cache_hits_total", **of) == hits
        assert shown.value("headrace_cache_misses_total", **of) == count - hits
        for name in ("headrace_request_latency_seconds", "headrace_request_end_to_end_seconds"):
            assert shown.value(f"{name}_count", **of) == len(answered)
            assert shown.value(f"{name}_bucket", **of, le="+Inf") == len(answered)
        latencies = sum(answer.latency_ms for answer in answered) / 1000
        assert abs(shown.value("headrace_request_latency_seconds_sum", **of) - latencies) < 0.001
        within = sum(answer.latency_ms <= 4.0 for answer in answered)
        assert shown.value("headrace_request_latency_seconds_bucket", **of, le="0.004") == within
    for (version, code), count in failed.items():
        # Names that anybody can make up are under no model.
        of = {"process": "predict", "model_name": model if version else "", "model_version": version}
        assert shown.value("headrace_request_errors_total", **of, code=code) == count
    assert shown.labels("headrace_requests_total", "model_name") == {model, ""}
    assert shown.total("headrace_requests_total") == len(answers)

    assert (
        shown.value("headrace_promotions_total", process="control", action="promote", status="applied") == 1
    )
    assert (
        shown.value("headrace_promotions_total", process="control", action="promote", status="rejected") == 1
    )
    assert shown.labels("headrace_consumer_lag_records", "topic") >= {settings.topic_requests}
    assert shown.total("headrace_consumer_lag_records", topic=settings.topic_requests) == 0
    assert shown.value("headrace_worker_heartbeat_age_seconds", process="monitor", worker="one") < 15
    assert shown.value("headrace_registry_age_seconds", process="predict") < 5
    assert shown.value("headrace_models", process="predict") == 1
    roles = {"predict", "control", "monitor", "log"}
    assert shown.labels("headrace_worker_info", "role") == roles
    assert all(shown.value("headrace_process_exits_total", process=role) == 0 for role in roles)
    worker.terminate()
    assert await asyncio.wait_for(worker.ended(), DEADLINE_SECONDS) == 0

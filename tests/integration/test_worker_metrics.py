"""The deltas on `predict-metrics` against the responses and dead letters that they count."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import orjson
from aiokafka import AIOKafkaProducer, ConsumerRecord

from registry.routing import RouteTable, bucket
from registry.store import RegistryStore
from schemas.events import MetricsDelta, PredictResponse
from tests.support.deadline import deadline
from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import LARGEST_OUTPUT, serve_model
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import HttpRequest, asked, http_server, serve_doubler
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

PARTITIONS = 4
REQUESTS = 3000
INPUTS = 700
HELD = 1000


async def test_the_deltas_count_every_request_once(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Over two workers and both their ends, sums are those of the responses, and no `seq` is missing."""
    model = await serve_model(database, tmp_path, canary_percent=30)
    settings = await topics(
        PARTITIONS,
        postgres_dsn=database,
        artifact_dir=str(tmp_path / "artifacts"),
        metrics_interval_seconds=0.1,
    )
    workers = [start_worker(settings.model_copy(update={"worker_name": name})) for name in ("one", "two")]
    await asyncio.gather(*(worker.ready() for worker in workers))
    read = (settings.topic_responses, settings.topic_dead_letters, settings.topic_metrics)
    async with (
        topic_log(settings.kafka_bootstrap, *read) as log,
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer,
    ):
        responses, letters = log.of(settings.topic_responses), log.of(settings.topic_dead_letters)

        def has_outcomes(count: int) -> bool:
            return len(sources(responses) | sources(letters)) == count

        values = list(requests(model))
        # The inputs of the first half come again in the second, when their predictions are in the cache.
        for half in (range(REQUESTS // 2), range(REQUESTS // 2, REQUESTS)):
            deliveries = [
                await producer.send(settings.topic_requests, values[number], partition=number % PARTITIONS)
                for number in half
            ]
            await asyncio.gather(*deliveries)
            await log.until(partial(has_outcomes, half.stop), "every outcome")
        for worker in workers:
            worker.terminate()
        assert [await worker.ended() for worker in workers] == [0, 0]
        await log.to_end()
        deltas = [MetricsDelta.model_validate_json(record.value) for record in log.of(settings.topic_metrics)]
    answers = [PredictResponse.model_validate(orjson.loads(record.value)) for record in responses]

    assert sum(delta.requests for delta in deltas) == REQUESTS
    by_version: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for delta in deltas:
        by_version[delta.model_version] += delta.ok
        errors.update(delta.errors)
        assert delta.requests == delta.ok + sum(delta.errors.values())
        assert delta.ok == delta.cache_hits + delta.cache_misses
        # What is refused before it is routed has no version; it counts for its model, if that is known.
        assert delta.model_name in ((model,) if delta.model_version else (model, ""))
    good = [answer for answer in answers if answer.error is None]
    assert +by_version == Counter(answer.model_version for answer in good)
    assert by_version.keys() == {"", "v1", "v2"}
    assert sum(delta.cache_hits for delta in deltas) == sum(answer.cached for answer in good) > 0
    malformed = errors.pop("MALFORMED_RECORD")
    assert malformed == REQUESTS - len(answers)
    assert errors == Counter(answer.error.code for answer in answers if answer.error is not None)
    assert len(errors) == 4
    for histogram in ("latency_ms", "end_to_end_ms"):
        assert sum(getattr(delta, histogram).count for delta in deltas) == len(answers)
    # Equal inputs under way are inferred once, so no more examples reach a backend than miss the cache.
    invalid_outputs = errors["INVALID_OUTPUT"]
    inferred = sum(delta.batch_size.sum for delta in deltas)
    assert 0 < inferred <= sum(delta.cache_misses for delta in deltas) + invalid_outputs

    lives = {(delta.worker, delta.boot_id) for delta in deltas}
    assert {worker for worker, _ in lives} == {"one", "two"}
    assert len(lives) == 2
    for life in lives:
        seqs = sorted(delta.seq for delta in deltas if (delta.worker, delta.boot_id) == life)
        assert seqs == list(range(len(seqs)))


async def test_a_slow_version_is_in_its_own_histograms(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """v2's call contains v1's calls, one behind the other: its times are at least the sum of theirs."""
    calls = 5
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def serve(request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        if request.method == "POST" and HELD in asked(request):
            arrived.set()
            await gate.wait()
        await serve_doubler(request, writer)

    async with http_server(serve) as url:
        store = await RegistryStore.connect(database)
        for one in (
            event("register", model=spec("v1", endpoint=f"{url}/v2/models/m", timeout_ms=60_000)),
            event("promote", version="v1"),
            event("register", model=spec("v2", endpoint=f"{url}/v2/models/m", timeout_ms=60_000)),
            event("canary", version="v2", weight=50),
        ):
            decided = await store.apply(one)
            assert decided.status == "applied", decided.error
        await store.close()
        assert decided.route is not None
        salt, table = decided.route.salt, RouteTable.of(decided.route)
        users = {table.version_of(bucket(salt, user)): user for user in map(str, range(100))}
        settings = await topics(2, postgres_dsn=database, metrics_interval_seconds=0.1)
        worker = start_worker(settings)
        await worker.ready()
        read = (settings.topic_responses, settings.topic_metrics)
        async with (
            topic_log(settings.kafka_bootstrap, *read) as log,
            AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer,
        ):
            responses = log.of(settings.topic_responses)

            async def send(version: str, x: int, partition: int) -> None:
                request = {
                    "request_id": str(x),
                    "model_name": "m",
                    "user_id": users[version],
                    "input": {"x": x},
                }
                await producer.send_and_wait(
                    settings.topic_requests, orjson.dumps(request), partition=partition
                )

            await send("v2", HELD, 0)
            async with deadline("the call of v2"):
                await arrived.wait()
            for x in range(calls):
                await send("v1", x, 1)
                await log.until(partial(lambda x: len(responses) > x, x), "an answer of v1")
            gate.set()
            await log.until(lambda: len(responses) > calls, "the answer of v2")
            worker.terminate()
            assert await worker.ended() == 0
            await log.to_end()
            deltas = [
                MetricsDelta.model_validate_json(record.value) for record in log.of(settings.topic_metrics)
            ]
    for name in ("backend_ms", "latency_ms", "end_to_end_ms"):
        fast, slow = (
            [
                getattr(delta, name)
                for delta in deltas
                if delta.model_version == version and getattr(delta, name).count
            ]
            for version in ("v1", "v2")
        )
        assert sum(histogram.count for histogram in fast) == calls
        (held,) = slow
        assert held.count == 1
        if name == "backend_ms":
            assert held.sum >= sum(histogram.sum for histogram in fast)
        else:
            assert held.sum > max(histogram.max for histogram in fast)


def requests(model: str) -> Iterator[bytes]:
    """Most are good; every tenth is one of five kinds that are not."""
    for number in range(REQUESTS):
        request = {
            "request_id": str(number),
            "model_name": model,
            "user_id": f"u{number}",
            "input": {"x": number % INPUTS},
        }
        match number % 50:
            case 0:
                yield b"{"
            case 10:
                yield orjson.dumps(request | {"model_name": "unknown"})
            case 20:
                yield orjson.dumps(request | {"input": {"x": -1}})
            case 30:
                yield orjson.dumps(request | {"input": {"x": LARGEST_OUTPUT // 3 + 1}})
            case 40:
                yield orjson.dumps(request | {"user_id": 7})
            case _:
                yield orjson.dumps(request)


def sources(records: Sequence[ConsumerRecord]) -> set[bytes]:
    return {dict(record.headers)["headrace-source"] for record in records}

"""Records that the broker takes and that must not stop a partition, beyond what a value can hold.

Each of them would end every worker that meets it, one after the other.
"""

import struct
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import serve_model
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker


def with_header_name(batch: Any, name: bytes) -> Any:
    """A batch whose header name `NAME` is replaced by bytes of the same length."""
    batch.close()
    buffer = batch._builder.build()
    at = bytes(buffer).index(b"NAME")
    buffer[at : at + 4] = name
    struct.pack_into(">I", buffer, 17, calc_crc32c(bytes(buffer)[21:]))
    batch._buffer = buffer
    return batch


@pytest.mark.parametrize("poison", ["header", "value", "null header", "key", "trace headers"])
async def test_a_poison_record_does_not_stop_its_partition(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path, poison: str
) -> None:
    """The record behind it is answered, and the poison record gets a dead letter or a log line."""
    settings = await topics(1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    model = await serve_model(database, tmp_path)
    worker = start_worker(settings)
    await worker.ready()

    def request(request_id: str) -> bytes:
        return orjson.dumps(
            {"request_id": request_id, "model_name": model, "user_id": "u", "input": {"x": 5}}
        )

    async with (
        topic_log(settings.kafka_bootstrap, settings.topic_responses, settings.topic_dead_letters) as log,
        AIOKafkaProducer(
            bootstrap_servers=settings.kafka_bootstrap,
            compression_type=None if poison == "header" else "gzip",
            max_request_size=100 << 20,
        ) as producer,
    ):
        topic = settings.topic_requests
        if poison == "header":  # a name that is not UTF-8, as C clients can write it
            batch = producer.create_batch()
            for name in ("before", "bad", "behind"):
                named = [("NAME", b"1")] if name == "bad" else []
                batch.append(key=b"u", value=request(name), timestamp=int(time.time() * 1000), headers=named)
            batch = with_header_name(batch, b"\xff\xfe\xff\xfe")
            await (await producer.send_batch(batch, topic, partition=0))
        elif poison in ("value", "null header"):  # 5 KB on the wire, more than the dead letters' topic takes
            headers: list[Any] = [("headrace-x", None)] if poison == "null header" else []
            await producer.send_and_wait(topic, b"x" * (5 << 20), key=b"u", headers=headers)
        elif poison == "trace headers":  # 12 MB of headers that a response carries
            headers = [("traceparent", b"t" * 4096)] * 3000
            await producer.send_and_wait(topic, request("many-headers"), key=b"u", headers=headers)
        else:  # the response has the request's key
            await producer.send_and_wait(topic, request("huge-key"), key=b"k" * (5 << 20))
        await producer.send_and_wait(topic, request("next"), key=b"u")
        expected = {
            "header": {"before", "bad", "behind"},
            "key": {"huge-key"},
            "trace headers": {"many-headers"},
        }.get(poison, set()) | {"next"}
        has_letter = poison in ("value", "null header")
        # Slices are worked on side by side: the next request may be answered before those of a slice before.
        responses, letters = log.of(settings.topic_responses), log.of(settings.topic_dead_letters)
        await log.until(
            lambda: len(responses) >= len(expected) and len(letters) >= has_letter,
            "all responses, and what is kept",
        )
        answered = {orjson.loads(record.value)["request_id"]: record for record in responses}
    assert answered.keys() == expected
    if poison == "key":
        assert dict(answered["huge-key"].headers)["headrace-omitted"] == b"key"
    if poison == "trace headers":
        names = [name for name, _ in answered["many-headers"].headers]
        assert names.count("traceparent") == 1
    if has_letter:
        (letter,) = letters
        assert dict(letter.headers)["headrace-source"] == f"{topic}/0/0".encode()
    worker.terminate()
    assert await worker.ended() == 0

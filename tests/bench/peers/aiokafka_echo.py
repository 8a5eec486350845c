"""(a) The loop that does no work: bare aiokafka, `getmany` and one `send` a record.

With `BENCH_DEFAULTS` set it leaves aiokafka's settings as they are; else it has what made it fastest.
"""

import asyncio
import gc
import os
import signal
from typing import Any

import aiokafka

BOOTSTRAP, GROUP = os.environ["BENCH_BOOTSTRAP"], os.environ["BENCH_GROUP"]
INPUT, OUTPUT = os.environ["BENCH_INPUT"], os.environ["BENCH_OUTPUT"]
DEFAULTS = "BENCH_DEFAULTS" in os.environ

# Batches of 16 KiB, the default, make a request to the broker out of every 80 records.
PRODUCER: dict[str, Any] = (
    {} if DEFAULTS else {"max_batch_size": 512 * 1024, "max_request_size": 8 * 1024 * 1024}
)
# Without a limit, a whole megabyte is turned into records before the first of them is sent.
MAX_RECORDS = None if DEFAULTS else 1000


async def echo(consumer: aiokafka.AIOKafkaConsumer, producer: aiokafka.AIOKafkaProducer) -> None:
    while True:
        fetched = await consumer.getmany(timeout_ms=1000, max_records=MAX_RECORDS)
        for records in fetched.values():
            for record in records:
                # Naming the partition spares a hash of the key, in Python, a record.
                partition = None if DEFAULTS else record.partition
                await producer.send(OUTPUT, record.value, key=record.key, partition=partition)


async def main() -> None:
    consumer = aiokafka.AIOKafkaConsumer(
        INPUT, bootstrap_servers=BOOTSTRAP, group_id=GROUP, auto_offset_reset="earliest"
    )
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, **PRODUCER)
    async with producer, consumer:
        echoing = asyncio.ensure_future(echo(consumer, producer))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, echoing.cancel)
        await asyncio.wait([echoing])
        if not echoing.cancelled():
            echoing.result()


if not DEFAULTS:
    gc.set_threshold(200_000, 50, 50)
asyncio.run(main())

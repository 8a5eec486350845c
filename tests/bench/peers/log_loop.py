"""The loop that logs and promises nothing: `getmany`, one parse a record, COPY straight into the table.

A record that comes twice ends it, as does one that it cannot read.
"""

import asyncio
import gc
import os
import signal
from datetime import UTC, datetime

import aiokafka
import asyncpg
import orjson

BOOTSTRAP, GROUP, INPUT = os.environ["BENCH_BOOTSTRAP"], os.environ["BENCH_GROUP"], os.environ["BENCH_INPUT"]
DSN, TABLE = os.environ["BENCH_DSN"], os.environ["BENCH_TABLE"]
COLUMNS = os.environ["BENCH_COLUMNS"].split(",")
MAX_RECORDS = 2500


def row_of(record):
    response = orjson.loads(record.value)
    headers = dict(record.headers)
    topic, partition, offset = headers["headrace-source"].decode().split("/")
    responded_at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
    error = response.get("error")
    return (
        responded_at,
        int(offset),
        response["revision"],
        response["latency_ms"],
        int(partition),
        responded_at.date(),
        response["cached"],
        response.get("fallback", False),
        response["stale"],
        topic,
        response["request_id"],
        response["model_name"],
        response["model_version"],
        response["user_id"],
        headers["headrace-input-digest"].decode(),
        error and error["code"],
        None,
    )


async def log(consumer, database):
    while True:
        fetched = await consumer.getmany(timeout_ms=1000, max_records=MAX_RECORDS)
        rows = [row_of(record) for records in fetched.values() for record in records]
        if rows:
            await database.copy_records_to_table(TABLE, columns=COLUMNS, records=rows)
            await consumer.commit()


async def main():
    consumer = aiokafka.AIOKafkaConsumer(
        INPUT,
        bootstrap_servers=BOOTSTRAP,
        group_id=GROUP,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    database = await asyncpg.connect(DSN)
    async with consumer:
        logging = asyncio.ensure_future(log(consumer, database))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, logging.cancel)
        await asyncio.wait([logging])
        if not logging.cancelled():
            logging.result()
    await database.close()


gc.set_threshold(200_000, 50, 50)
asyncio.run(main())

"""(f) The same work written for Faust: one agent, `async for` over its stream, the asyncio Redis client."""

import os

import faust
import redis.asyncio
from faust_app import INPUT, OUTPUT, make_app, run
from work import CACHE_SECONDS, Work, headers

app = make_app()
requests = app.topic(INPUT, value_type=bytes, key_serializer="raw", value_serializer="raw")
responses = app.topic(OUTPUT, value_type=bytes, key_serializer="raw", value_serializer="raw")
work = Work()
cache = redis.asyncio.Redis.from_url(os.environ["BENCH_REDIS_URL"])


@app.agent(requests)
async def predict(stream: faust.StreamT[bytes]) -> None:
    async for event in stream.events():
        case = work.open(event.value)
        kept = await cache.get(case.key)
        if kept is None:
            case.predictions = work.infer(case)
            await cache.set(case.key, case.predictions, ex=CACHE_SECONDS)
        else:
            case.predictions, case.cached = kept, True
        source = event.message
        await responses.send(
            key=event.key,
            value=work.answer(case),
            partition=source.partition,
            headers=dict(headers(case, source.topic, source.partition, source.offset)),
        )


run(app)

"""(e) The same work written for Quix Streams: one function a step, the synchronous Redis client."""

import os

import redis
from quix_app import make_app
from quixstreams import message_context
from work import CACHE_SECONDS, Case, Work, headers

app, requests, responses = make_app()
work = Work()
cache = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])


def predict(case: Case) -> Case:
    kept = cache.get(case.key)
    if kept is None:
        case.predictions = work.infer(case)
        cache.set(case.key, case.predictions, ex=CACHE_SECONDS)
    else:
        case.predictions, case.cached = kept, True
    return case


def response_headers(case: Case, *_: object) -> list[tuple[str, bytes]]:
    source = message_context()
    return headers(case, source.topic, source.partition, source.offset)


stream = app.dataframe(requests).apply(work.open).apply(predict)
stream.set_headers(response_headers).apply(work.answer).to_topic(responses)
app.run()

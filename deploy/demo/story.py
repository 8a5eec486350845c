"""PURE. The texts that the demo prints."""

from collections.abc import Sequence
from pathlib import Path

import orjson

from deploy.demo.plan import ALS, CANARY_PERCENT, MODEL_NAME, POPULARITY, Tally, Visit
from deploy.demo.ratings import Ratings
from schemas.events import PredictResponse
from streams.config.sources import ENV_FILE_VARIABLE


def data(ratings: Ratings) -> str:
    return (
        f"MovieLens-100k: {len(ratings):,} ratings of {ratings.items:,} films by {ratings.users} people.\n"
        "Two recommenders learn from the first 80% of each person's ratings. Their hit rate at 10 is the "
        "share of people who\nlater rated at least one of the 10 films recommended to them:"
    )


def registered() -> str:
    return (
        f"Model {MODEL_NAME}: {POPULARITY} is registered and promoted, {ALS} is registered and has a canary "
        f"of {CANARY_PERCENT}%:\none user in {100 // CANARY_PERCENT} is answered by {ALS}, always the same "
        "ones."
    )


def example(visit: Visit, response: PredictResponse, titles: Sequence[str]) -> str:
    """A request and its response as they are on the topics, and the films that are meant."""
    request = {
        "request_id": response.request_id,
        "model_name": MODEL_NAME,
        "user_id": visit.user_id,
        "input": visit.input,
    }
    text = (
        "A request on predict-requests and its response on predict-responses:\n"
        f"  {orjson.dumps(request).decode()}\n"
        f"  {orjson.dumps(response.model_dump(mode='json', exclude_unset=True)).decode()}"
    )
    if response.error is None:
        text += f"\nThe films: {' | '.join(titles[item] for item in response.predictions)}"
    return text


def what_to_try(headrace: Path, env_file: Path, worker_pid: int) -> str:
    """Commands for another terminal."""
    commands = [
        f"status {MODEL_NAME}",
        f"canary {MODEL_NAME} {ALS} 50",
        f"rollback {MODEL_NAME} --wait",
        f"promote {MODEL_NAME} {ALS}",
        f"history {MODEL_NAME}",
        f"route {MODEL_NAME} --user u1",
        f"predict {MODEL_NAME} --user u1 --input '{{\"user_idx\": 0}}'",
        "top",
    ]
    lines = [
        "Try these in another terminal; the traffic here follows within a second or two:",
        f"  export {ENV_FILE_VARIABLE}={env_file}",
        *(f"  {headrace} {command}" for command in commands),
        "Or end the worker as a crash would and start another: requests wait for it, and none is lost:",
        f"  kill -9 {worker_pid}; {headrace} worker",
    ]
    return "\n".join(lines)


def progress(tally: Tally) -> str:
    """What became of the requests so far."""
    counts = (
        f"{tally.sent:,} requests sent, {tally.answered:,} answered ({tally.cached:,} from the cache, "
        f"{tally.errors:,} with an error), {tally.waiting:,} on their way"
    )
    return f"{counts}\nThe last trouble: {tally.last_trouble}" if tally.last_trouble else counts


def replaying(requests_per_second: float, seconds: float | None) -> str:
    end = "until Ctrl-C" if seconds is None else f"for {seconds:g} s"
    return (
        f"Replaying the later ratings in the order of time, {requests_per_second:g} requests a second, {end}:"
    )

"""PURE. The demo's texts, apart from single steps."""

from collections.abc import Sequence
from pathlib import Path

import orjson

from deploy.demo.ratings import Ratings
from deploy.demo.scenario import ALS, CANARY_PERCENT, MODEL_NAME, POPULARITY, DemoRequest, ReplayCounts
from schemas.events import PredictResponse


def data(ratings: Ratings) -> str:
    return (
        f"MovieLens-100k: {len(ratings):,} ratings of {ratings.items:,} films by {ratings.users} people.\n"
        "Two recommenders are trained on the first 80% of each person's ratings. The hit rate at 10 is the "
        "share of people\nwho later rated at least one of the 10 films recommended to them:"
    )


def registered() -> str:
    return (
        f"Model {MODEL_NAME}: {POPULARITY} is registered and promoted, {ALS} is registered with a canary of "
        f"{CANARY_PERCENT}%.\n{ALS} answers one user in {100 // CANARY_PERCENT}, and always the same users."
    )


def example(request: DemoRequest, response: PredictResponse, titles: Sequence[str]) -> str:
    """A request and its response as on the topics, and the titles of the recommended films."""
    record = {
        "request_id": response.request_id,
        "model_name": MODEL_NAME,
        "user_id": request.user_id,
        "input": request.input,
    }
    text = (
        "A request on predict-requests and its response on predict-responses:\n"
        f"  {orjson.dumps(record).decode()}\n"
        f"  {orjson.dumps(response.model_dump(mode='json', exclude_unset=True)).decode()}"
    )
    if response.error is None:
        text += f"\nThe films: {' | '.join(titles[item] for item in response.predictions)}"
    return text


def commands_to_try(headrace: Path, env_file_variable: str, env_file: Path, worker_pid: int) -> str:
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
        f"  export {env_file_variable}={env_file}",
        *(f"  {headrace} {command}" for command in commands),
        "Or kill the worker and start another one: requests wait for it, and none is lost:",
        f"  kill -9 {worker_pid}; {headrace} worker",
    ]
    return "\n".join(lines)


def progress(counts: ReplayCounts) -> str:
    text = (
        f"{counts.sent:,} requests sent, {counts.answered:,} answered ({counts.cached:,} from the cache, "
        f"{counts.errors:,} with an error), {counts.waiting:,} in flight"
    )
    return f"{text}\nThe last error: {counts.last_error}" if counts.last_error else text


def replaying(requests_per_second: float, seconds: float | None) -> str:
    end = "until Ctrl-C" if seconds is None else f"for {seconds:g} s"
    return f"Replaying the later ratings by time, {requests_per_second:g} requests/s, {end}:"

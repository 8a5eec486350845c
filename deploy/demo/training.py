"""Training, evaluation and export of both recommenders."""

import time
from collections.abc import Callable
from pathlib import Path

from deploy.demo.onnx_file import write_onnx
from deploy.demo.publish import model_spec
from deploy.demo.ratings import Ratings
from deploy.demo.recommenders import Recommender, hit_rate, train_als, train_popularity
from deploy.demo.scenario import ALS, POPULARITY
from schemas.models import ModelSpec

_RECOMMENDERS: dict[str, tuple[str, Callable[[Ratings], Recommender]]] = {
    POPULARITY: ("the films that most people rated", train_popularity),
    ALS: ("implicit ALS, by the user's own ratings", train_als),
}


def train_all(
    early: Ratings, late: Ratings, folder: Path, report: Callable[[str], None]
) -> dict[str, ModelSpec]:
    """Train on the early ratings and evaluate on the late ones; returns the specification of each version.

    The model files are in `folder`; `report` is called with a line for each version.
    """
    specs = {}
    for version, (description, train) in _RECOMMENDERS.items():
        started_at = time.monotonic()
        recommender = train(early)
        seconds = time.monotonic() - started_at
        rate = hit_rate(recommender, late)
        path = folder / f"{version}.onnx"
        write_onnx(recommender, path)
        specs[version] = model_spec(
            version,
            path,
            users=early.users,
            items=early.items,
            hit_rate=rate,
            trained_on_rows=len(early),
        )
        report(f"{version}: {description}; hit rate at 10: {rate:.1%}; trained in {seconds:.1f} s")
    return specs

"""The demo's recommenders: split, training, model file, registration. No services."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.demo.movielens import parse
from deploy.demo.onnx_file import write_onnx
from deploy.demo.plan import MODEL_NAME
from deploy.demo.publish import model_spec, promotion_events
from deploy.demo.ratings import Ratings, split_by_time
from deploy.demo.recommenders import Recommender, hit_rate, train_als, train_popularity
from deploy.demo.replay import visits
from registry import lifecycle
from registry.routing import weights_of
from registry.snapshot import RegisteredModel
from schemas.json_schema import compile_schema
from workers.backends.onnx import OnnxBackend

USERS, ITEMS = 60, 48
Train = Callable[[Ratings], Recommender]


def ratings_of(rows: list[tuple[int, int, int]], users: int = USERS, items: int = ITEMS) -> Ratings:
    """Ratings from (user, item, time)."""
    user_idx, item_idx, rated_at = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return Ratings(user_idx, item_idx, np.full(len(rows), 4, np.float32), rated_at, users, items)


def two_tastes() -> Ratings:
    """Even users like even items, odd ones odd items; each has rated 15 of 24 in a random order.

    There are twice as many even users, so that what is popular is even.
    """
    random = np.random.default_rng(1)
    rows = []
    for user in range(USERS):
        taste = 1 if user % 3 == 0 else 0
        liked = random.permutation(np.arange(taste, ITEMS, 2))[:15]
        rows += [(user, int(item), time) for time, item in enumerate(liked)]
    return ratings_of(rows)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=80))
def test_the_split_takes_each_users_first_four_fifths(rows: list[tuple[int, int, int]]) -> None:
    """Nothing is lost, no user's training rating is later than a held-out one, replay is in time's order."""
    early, late = split_by_time(ratings_of(rows, users=5, items=10))
    both = zip(
        np.concatenate([early.user_idx, late.user_idx]).tolist(),
        np.concatenate([early.item_idx, late.item_idx]).tolist(),
        np.concatenate([early.rated_at, late.rated_at]).tolist(),
        strict=True,
    )
    assert sorted(both) == sorted(rows)
    assert (np.diff(late.rated_at) >= 0).all()
    for user in range(5):
        count = sum(row[0] == user for row in rows)
        first, rest = early.rated_at[early.user_idx == user], late.rated_at[late.user_idx == user]
        assert len(first) == count * 4 // 5
        assert first.max(initial=0) <= rest.min(initial=20)


def test_als_learns_tastes_that_popularity_cannot() -> None:
    """Where users differ, ALS finds what they go on to like, and popularity finds the majority's."""
    early, late = split_by_time(two_tastes())
    als, popularity = train_als(early), train_popularity(early)
    assert hit_rate(als, late) > hit_rate(popularity, late) + 0.2
    odd_users = range(0, USERS, 3)
    assert np.mean(als.top()[odd_users] % 2) > 0.8
    assert np.mean(popularity.top()[odd_users] % 2) < 0.2


def test_training_again_gives_the_same_recommender() -> None:
    """The same ratings lead to the same factors, so to the same file and the same digest."""
    early, _ = split_by_time(two_tastes())
    first, second = train_als(early), train_als(early)
    assert np.array_equal(first.user_factors, second.user_factors)
    assert np.array_equal(first.item_factors, second.item_factors)


@pytest.mark.parametrize("train", [train_popularity, train_als])
def test_nothing_rated_is_recommended(train: Train) -> None:
    """Ten different items for each user, none of which the user has rated."""
    early, _ = split_by_time(two_tastes())
    top = train(early).top()
    assert top.shape == (USERS, 10)
    assert all(len(set(row)) == 10 for row in top.tolist())
    assert not np.take_along_axis(early.matrix() > 0, top, axis=1).any()


def test_the_hit_rate_counts_users_with_held_out_ratings() -> None:
    """One of two users is recommended an item of their later ratings; a third has none and does not count."""
    item_factors = np.arange(20, 0, -1, dtype=np.float32)[:, np.newaxis]
    recommender = Recommender(np.ones((3, 1), np.float32), item_factors, np.zeros((3, 20), np.bool_))
    held_out = ratings_of([(0, 9, 0), (0, 19, 1), (1, 10, 2)], users=3, items=20)
    assert hit_rate(recommender, held_out) == 0.5


@pytest.mark.parametrize("train", [train_popularity, train_als])
async def test_the_model_file_predicts_what_numpy_computes(train: Train, tmp_path: Path) -> None:
    """Served as a worker serves it, the file gives each user the same list in the same order."""
    early, _ = split_by_time(two_tastes())
    recommender = train(early)
    path = tmp_path / "model.onnx"
    write_onnx(recommender, path)
    backend = await OnnxBackend.load(path, threads=1)
    try:
        inputs = [{"user_idx": user} for user in range(USERS)]
        predictions = await backend.infer(inputs, timeout_seconds=10)
    finally:
        await backend.close()
    assert predictions == recommender.top().tolist()


def test_the_schemas_take_the_models_inputs_and_outputs_only(tmp_path: Path) -> None:
    """A user that exists is an input, ten different items are an output, anything else is neither."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"model")
    spec = model_spec("v1", path, users=3, items=20, hit_rate=0.5, trained_on_rows=7)
    accepts = compile_schema(spec.input_schema).is_valid
    promises = compile_schema(spec.output_schema).is_valid
    assert [accepts({"user_idx": user}) for user in (0, 2, -1, 3, "1")] == [True, True, False, False, False]
    assert not accepts({})
    assert not accepts({"user_idx": 1, "more": 2})
    assert promises(list(range(10)))
    assert not any(map(promises, [list(range(9)), list(range(11)), [0] * 10, list(range(15, 25)), None]))
    assert spec.metrics == {"hit_rate_at_10": 0.5, "trained_on_rows": 7}


def test_the_events_put_nine_tenths_on_one_version_and_a_tenth_on_the_other(tmp_path: Path) -> None:
    """Applied in order, none is refused, and the traffic is split as the demo says."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"model")
    first, second = (
        model_spec(version, path, users=3, items=20, hit_rate=0.5, trained_on_rows=7)
        for version in ("v1", "v2")
    )
    model: RegisteredModel | None = None
    for event in promotion_events(first, second):
        assert event.model_name == MODEL_NAME
        model = lifecycle.apply(model, event, datetime.now(UTC)).model
    assert model is not None
    assert weights_of(model.route) == {"v1": 90, "v2": 10}


def test_movielens_is_read_with_indices_by_id() -> None:
    """Ids become indices from 0 in the order of the ids; titles and users are found by them."""
    movielens = parse(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n9\t30\t5\t200\n7\t4\t1\t100\n",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\n30\tFargo\t1996\n4\tGet Shorty\t1995\n",
    )
    assert movielens.user_ids == ("7", "9")
    assert movielens.titles == ("Get Shorty", "Fargo")
    assert movielens.ratings.user_idx.tolist() == [1, 0]
    assert movielens.ratings.item_idx.tolist() == [1, 0]
    assert movielens.ratings.rating.tolist() == [5, 1]
    again = [visit.user_id for visit in islice(visits(movielens, movielens.ratings), 4)]
    assert again == ["u9", "u7", "u9", "u7"]

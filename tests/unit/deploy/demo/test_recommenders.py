"""deploy/demo/recommenders.py: the split of ratings, training, and the exported model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.demo.onnx_file import write_onnx
from deploy.demo.ratings import Ratings, split_by_time
from deploy.demo.recommenders import Recommender, hit_rate, train_als, train_popularity
from workers.backends.onnx import OnnxBackend

USERS, ITEMS = 60, 48
Train = Callable[[Ratings], Recommender]


def ratings_of(rows: list[tuple[int, int, int]], users: int = USERS, items: int = ITEMS) -> Ratings:
    """Ratings from (user, item, time)."""
    user_idx, item_idx, rated_at = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return Ratings(user_idx, item_idx, np.full(len(rows), 4, np.float32), rated_at, users, items)


def two_tastes() -> Ratings:
    """Ratings by two groups: two thirds of the users rated even items, the others odd items.

    Each user rated 15 of 24 items in a random order. The popular items are even.
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
    """Every rating is in one part, training ratings precede held-out ones, and these are sorted by time."""
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


def test_als_personalises_and_popularity_does_not() -> None:
    """ALS recommends each group its own items; popularity recommends the majority's to all."""
    early, late = split_by_time(two_tastes())
    als, popularity = train_als(early), train_popularity(early)
    assert hit_rate(als, late) > hit_rate(popularity, late) + 0.2
    odd_users = range(0, USERS, 3)
    assert np.mean(als.top()[odd_users] % 2) > 0.8
    assert np.mean(popularity.top()[odd_users] % 2) < 0.2


def test_training_again_gives_the_same_recommender() -> None:
    """Equal ratings give equal factors, and so the same file and digest."""
    early, _ = split_by_time(two_tastes())
    first, second = train_als(early), train_als(early)
    assert np.array_equal(first.user_factors, second.user_factors)
    assert np.array_equal(first.item_factors, second.item_factors)


@pytest.mark.parametrize("train", [train_popularity, train_als])
def test_rated_items_are_not_recommended(train: Train) -> None:
    """Each user gets ten different items that the user has not rated."""
    early, _ = split_by_time(two_tastes())
    top = train(early).top()
    assert top.shape == (USERS, 10)
    assert all(len(set(row)) == 10 for row in top.tolist())
    assert not np.take_along_axis(early.matrix() > 0, top, axis=1).any()


def test_the_hit_rate_counts_users_with_held_out_ratings() -> None:
    """One of two users has a hit; a third has no held-out rating and does not count."""
    item_factors = np.arange(20, 0, -1, dtype=np.float32)[:, np.newaxis]
    recommender = Recommender(np.ones((3, 1), np.float32), item_factors, np.zeros((3, 20), np.bool_))
    held_out = ratings_of([(0, 9, 0), (0, 19, 1), (1, 10, 2)], users=3, items=20)
    assert hit_rate(recommender, held_out) == 0.5


@pytest.mark.parametrize("train", [train_popularity, train_als])
async def test_the_model_file_predicts_what_numpy_computes(train: Train, tmp_path: Path) -> None:
    """The worker's backend returns the same list for each user as the recommender."""
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

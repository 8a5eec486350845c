"""PURE. Two recommenders of items that a user has not rated yet, and their hit rate.

Both score an item for a user by the dot product of two vectors, so both have the same model graph.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy.demo.ratings import Floats, Indices, Ratings

LIST_LENGTH = 10

# Tuned on MovieLens-100k; the hit rate is not sensitive to small changes.
_FACTORS = 32
_ITERATIONS = 6
_CONFIDENCE_PER_STAR = 0.5
_REGULARISATION = 10.0


@dataclass(frozen=True, slots=True)
class Recommender:
    """A factor model: the scores are `user_factors` [users, k] times `item_factors` [items, k] transposed.

    Items in `seen` [users, items] are not recommended.
    """

    user_factors: Floats
    item_factors: Floats
    seen: npt.NDArray[np.bool_]

    def top(self) -> Indices:
        """The unseen items with the highest scores for each user, [users, 10]; ties by lower index."""
        scores = np.where(self.seen, -np.inf, self.user_factors @ self.item_factors.T)
        return np.argsort(-scores, axis=1, kind="stable")[:, :LIST_LENGTH]


def train_popularity(ratings: Ratings) -> Recommender:
    """The items with the most ratings, for all users alike."""
    seen = ratings.matrix() > 0
    return Recommender(
        user_factors=np.ones((ratings.users, 1), np.float32),
        item_factors=seen.sum(axis=0, dtype=np.float32)[:, np.newaxis],
        seen=seen,
    )


def train_als(ratings: Ratings, seed: int = 0) -> Recommender:
    """Implicit feedback by alternating least squares, closed form.

    Hu, Koren, Volinsky: Collaborative Filtering for Implicit Feedback Datasets (ICDM 2008). A rating is
    an observation of interest, with a confidence that grows with its stars.
    """
    matrix = ratings.matrix()
    confidence = _CONFIDENCE_PER_STAR * matrix
    by_item = np.ascontiguousarray(confidence.T)
    random = np.random.default_rng(seed)
    item_factors = random.normal(scale=0.1, size=(ratings.items, _FACTORS)).astype(np.float32)
    for _ in range(_ITERATIONS):
        user_factors = _solved(confidence, item_factors)
        item_factors = _solved(by_item, user_factors)
    return Recommender(user_factors, item_factors, matrix > 0)


def _solved(confidence: Floats, others: Floats) -> Floats:
    """The least-squares factors of each row, given the factors of the columns.

    The paper's equation 4: (Y'Y + Y'(C - I)Y + aI) x = Y'C p, where p is 1 for rated items, else 0, and
    C - I is `confidence`. Y'Y is the same for all rows; only rated columns contribute to the rest.
    """
    common = others.T @ others + _REGULARISATION * np.eye(others.shape[1], dtype=np.float32)
    factors = np.zeros((len(confidence), others.shape[1]), np.float32)
    for row, confidences in enumerate(confidence):
        rated = np.flatnonzero(confidences)
        theirs, weights = others[rated], confidences[rated]
        factors[row] = np.linalg.solve(common + (theirs.T * weights) @ theirs, (1 + weights) @ theirs)
    return factors


def hit_rate(recommender: Recommender, held_out: Ratings) -> float:
    """The share of users with held-out ratings whose recommendations include at least one of those items."""
    wanted = held_out.matrix() > 0
    hits = np.take_along_axis(wanted, recommender.top(), axis=1)
    return np.count_nonzero(hits.any(axis=1)) / np.count_nonzero(wanted.any(axis=1))

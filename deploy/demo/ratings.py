"""PURE. Ratings as arrays, and their split by time."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_TRAINING_PERCENT = 80


@dataclass(frozen=True, slots=True)
class Ratings:
    """Who rated what, how and when; entry i of each array belongs to rating i.

    `user_idx` counts from 0 to `users` - 1, `item_idx` from 0 to `items` - 1. `rated_at` is in seconds.
    """

    user_idx: Indices
    item_idx: Indices
    rating: Floats
    rated_at: Indices
    users: int
    items: int

    def __len__(self) -> int:
        return len(self.user_idx)

    def matrix(self) -> Floats:
        """The ratings as [users, items]; 0 where there is none."""
        matrix = np.zeros((self.users, self.items), np.float32)
        matrix[self.user_idx, self.item_idx] = self.rating
        return matrix

    def taken(self, chosen: Indices) -> "Ratings":
        """The ratings at these positions, in their order."""
        return Ratings(
            self.user_idx[chosen],
            self.item_idx[chosen],
            self.rating[chosen],
            self.rated_at[chosen],
            self.users,
            self.items,
        )


def split_by_time(ratings: Ratings) -> tuple[Ratings, Ratings]:
    """Each user's first 80% of ratings by time, rounded down, and all other ratings in order of time.

    Ratings of one second stay in the order that they came in.
    """
    order = np.lexsort((ratings.rated_at, ratings.user_idx))
    counts = np.bincount(ratings.user_idx, minlength=ratings.users)
    firsts = np.cumsum(counts) - counts
    users = ratings.user_idx[order]
    rank = np.arange(len(order)) - firsts[users]
    early = rank < counts[users] * _TRAINING_PERCENT // 100
    late = np.sort(order[~early])
    late = late[np.argsort(ratings.rated_at[late], kind="stable")]
    return ratings.taken(order[early]), ratings.taken(late)

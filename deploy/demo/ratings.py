"""PURE. Ratings as arrays, and their split by time."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_TRAINING_PERCENT = 80


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings in columns; entry i of each array belongs to rating i.

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
        """The ratings as [users, items]; 0 for pairs without a rating."""
        matrix = np.zeros((self.users, self.items), np.float32)
        matrix[self.user_idx, self.item_idx] = self.rating
        return matrix

    def at(self, positions: Indices) -> "Ratings":
        """The ratings at these positions, in the order of the positions."""
        return Ratings(
            self.user_idx[positions],
            self.item_idx[positions],
            self.rating[positions],
            self.rated_at[positions],
            self.users,
            self.items,
        )


def split_by_time(ratings: Ratings) -> tuple[Ratings, Ratings]:
    """Each user's first 80% of ratings by time, rounded down, and all other ratings by time.

    Ratings of the same second keep their order.
    """
    order = np.lexsort((ratings.rated_at, ratings.user_idx))
    counts = np.bincount(ratings.user_idx, minlength=ratings.users)
    firsts = np.cumsum(counts) - counts
    users = ratings.user_idx[order]
    rank = np.arange(len(order)) - firsts[users]
    early = rank < counts[users] * _TRAINING_PERCENT // 100
    late = np.sort(order[~early])
    late = late[np.argsort(ratings.rated_at[late], kind="stable")]
    return ratings.at(order[early]), ratings.at(late)

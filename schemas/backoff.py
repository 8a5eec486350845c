"""PURE: how long to wait before the next try. Every loop that tries again uses this function."""

# 2.0 ** 1024 does not fit a float. After so many doublings every pause is its longest one anyway.
_MOST_DOUBLINGS = 64


def backoff_seconds(
    tries: int, *, first_seconds: float, longest_seconds: float, chance: float = 1.0
) -> float:
    """The pause after `tries` failed tries: exponential, capped, scaled by `chance`.

    `tries` counts from 1: the pause after the first failure is `first_seconds`, each later one twice the one
    before, and none exceeds `longest_seconds`. `chance` in [0, 1] is the caller's random number, so that clients
    that failed together do not come back together: `random.random()` for full jitter, `random.uniform(0.5, 1)`
    for equal jitter, 1 for none. The names are those of Marc Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015.

    Raises ValueError when `tries` is less than 1: nothing has failed yet, so there is nothing to wait for.
    """
    if tries < 1:
        raise ValueError(f"tries counts failed tries from 1, not {tries}")
    doublings = min(tries - 1, _MOST_DOUBLINGS)
    return chance * min(longest_seconds, first_seconds * 2.0**doublings)

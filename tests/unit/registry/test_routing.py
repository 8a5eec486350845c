"""Buckets agree with the contract; changes of weights move as few users as possible."""

import json
import time
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.routing import RouteTable, bucket, buckets, reallocate, weights_of
from schemas.models import BUCKETS, Route

VECTORS = json.loads((Path(__file__).parent / "bucket-vectors.json").read_text())["vectors"]
NOBODY = Route(salt="m", ranges=())


def ramp(*steps: Mapping[str, float | int]) -> list[Route]:
    """The routes after each of these weights, from a model without traffic."""
    routes = []
    route = NOBODY
    for step in steps:
        route = reallocate(route, {version: Decimal(str(weight)) for version, weight in step.items()})
        routes.append(route)
    return routes


def assignment(route: Route) -> list[str | None]:
    table = RouteTable.of(route)
    return [table.version_of(number) for number in range(BUCKETS)]


@st.composite
def weights(draw: st.DrawFn) -> dict[str, Decimal]:
    """Up to five versions whose weights have two decimals and add up to 100."""
    versions = draw(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5, unique=True))
    cuts = draw(
        st.lists(
            st.integers(1, BUCKETS - 1), min_size=len(versions) - 1, max_size=len(versions) - 1, unique=True
        )
    )
    edges = [0, *sorted(cuts), BUCKETS]
    return {
        version: Decimal(end - start) / 100
        for version, start, end in zip(versions, edges[:-1], edges[1:], strict=True)
    }


@pytest.mark.parametrize(
    "vector", VECTORS, ids=lambda vector: f"{vector['salt']:.20}:{vector['user_id']:.10}"
)
def test_buckets_agree_with_the_published_vectors(vector: dict[str, str | int]) -> None:
    """Every implementation of the contract puts these users into these buckets."""
    salt, user_id = str(vector["salt"]), str(vector["user_id"])
    assert bucket(salt, user_id) == vector["bucket"]
    assert buckets(salt, [user_id, user_id]) == [vector["bucket"]] * 2


def test_a_user_without_utf8_form_is_refused() -> None:
    """A lone surrogate must not get a bucket that no other implementation can compute."""
    with pytest.raises(UnicodeEncodeError):
        bucket("m", "\ud800")


def test_a_route_without_ranges_gives_no_version() -> None:
    """The model of versions in staging only."""
    assert RouteTable.of(NOBODY).version_of(0) is None
    assert weights_of(NOBODY) == {}


def test_lookups_agree_with_the_ranges_at_their_edges() -> None:
    """A range includes its start and excludes its end."""
    table = RouteTable.of(ramp({"v1": 100}, {"v1": 80, "v2": 20})[-1])
    assert [table.version_of(number) for number in (0, 7999, 8000, 9999)] == ["v1", "v1", "v2", "v2"]


def test_raising_a_canary_keeps_every_user_it_had_and_moves_only_the_difference() -> None:
    """From 5% to 20% exactly 15% of the buckets move, all of them to the canary."""
    small, large = (
        assignment(route) for route in ramp({"v1": 100}, {"v1": 95, "v2": 5}, {"v1": 80, "v2": 20})[1:]
    )
    moves = [(before, after) for before, after in zip(small, large, strict=True) if before != after]
    assert moves == [("v1", "v2")] * 1500


def test_a_canary_that_is_lowered_and_raised_again_gets_the_same_users_back() -> None:
    """A canary that is lowered and raised again gets the same users."""
    first, _, again = ramp({"v1": 100}, {"v1": 80, "v2": 20}, {"v1": 95, "v2": 5}, {"v1": 80, "v2": 20})[1:]
    assert again == first


def test_two_canaries_that_grow_in_turn_stay_undivided() -> None:
    """The usual experiment of two candidates needs three ranges, however often it is ramped."""
    steps = [{"v1": 100 - 2 * n, "v2": n, "v3": n} for n in range(1, 40)]
    turns = [
        turn for n, step in enumerate(steps, 1) for turn in ({**step, "v1": 101 - 2 * n, "v3": n - 1}, step)
    ]
    routes = ramp({"v1": 100}, {"v1": 99, "v2": 1}, *turns[1:])
    assert max(len(route.ranges) for route in routes) == 3


def test_a_promotion_leaves_one_range() -> None:
    """A version with all traffic has one range, whatever was before."""
    scattered = ramp({"a": 60, "b": 20, "c": 20}, {"a": 40, "b": 25, "c": 35}, {"a": 50, "b": 25, "d": 25})
    assert len(reallocate(scattered[-1], {"d": Decimal(100)}).ranges) == 1


def reallocation_cpu_seconds(versions: int) -> float:
    """Processor time to move all traffic from this many versions to as many others."""
    weight = Decimal(100) / versions
    route = reallocate(NOBODY, {f"v{number}": weight for number in range(versions)})
    began = time.process_time()
    route = reallocate(route, {f"w{number}": weight for number in range(versions)})
    assert len(weights_of(route)) == versions
    return time.process_time() - began


def test_reallocating_is_not_quadratic_in_the_number_of_ranges() -> None:
    """Ten times the versions take some twenty times the processor time, and not a hundred times."""
    few, many = (
        min(reallocation_cpu_seconds(versions) for _ in range(3)) for versions in (BUCKETS // 10, BUCKETS)
    )
    assert many < 60 * few


@pytest.mark.parametrize(
    "wrong",
    [{}, {"a": "99.99"}, {"a": "100.01"}, {"a": "110", "b": "-10"}, {"a": "33.335", "b": "66.665"}],
    ids=str,
)
def test_weights_that_cannot_be_buckets_are_a_programming_error(wrong: dict[str, str]) -> None:
    """The lifecycle refuses such weights with a message; a route of them must not be made either."""
    with pytest.raises(ValueError, match="add up to 100"):
        reallocate(NOBODY, {version: Decimal(weight) for version, weight in wrong.items()})


# No deadline: how long an example takes says more about the machine than about the code.
@settings(deadline=None)
@given(history=st.lists(weights(), max_size=4), wanted=weights())
def test_reallocation_is_exact_minimal_and_tidy(
    history: list[dict[str, Decimal]], wanted: dict[str, Decimal]
) -> None:
    """Exact weights, the theoretical minimum of moves, no two neighbours of one version, few new ranges."""
    route = NOBODY
    for step in history:
        route = reallocate(route, step)
    result = reallocate(route, wanted)

    assert weights_of(result) == wanted
    assert all(a.version != b.version for a, b in pairwise(result.ranges))
    before, after = weights_of(route), weights_of(result)
    if history:
        moved = sum(x != y for x, y in zip(assignment(route), assignment(result), strict=True))
        gained = sum(max(Decimal(0), after[version] - before.get(version, 0)) for version in after)
        assert moved == gained * 100
        assert len(result.ranges) <= len(route.ranges) + 2 * len(wanted)


@settings(deadline=None)
@given(history=st.lists(weights(), max_size=3), wanted=weights(), order=st.randoms())
def test_reallocation_depends_on_route_and_weights_alone(
    history: list[dict[str, Decimal]], wanted: dict[str, Decimal], order: Random
) -> None:
    """Two control workers that apply one event to one route write the same route."""
    route = NOBODY
    for step in history:
        route = reallocate(route, step)
    shuffled = list(wanted.items())
    order.shuffle(shuffled)
    assert reallocate(route, dict(shuffled)) == reallocate(route, wanted)

"""streams/serving/route_table.py: the version of a user, and the errors that a version's schemas make."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.routing import RouteTable, bucket
from schemas.errors import ArtifactError
from schemas.json_schema import OMITTED, Explanations
from schemas.models import BUCKETS, BucketRange, Route
from schemas.schema_limits import MAX_COMPOSITE_MEMBERS
from streams.serving.route_table import ServedVersion, ServingTable, cache_prefix_of
from tests.support.models.served_versions import RecordingBackend, served_model, served_version, spec_of

VERSIONS = [
    served_version("m", f"v{number}", RecordingBackend(), timeout_ms=100 * number) for number in (1, 2, 3)
]


@given(st.integers(1, 3), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_user_gets_the_version_of_the_registrys_route(count: int, user_id: str) -> None:
    """Also with one version, for which no bucket is computed."""
    model = served_model("m", 1, *VERSIONS[:count])
    width = BUCKETS // count
    ends = [width * (at + 1) for at in range(count - 1)] + [BUCKETS]
    starts = [0, *ends[:-1]]
    route = Route(
        salt="m",
        ranges=tuple(
            BucketRange(start=start, end=end, version=version.spec.version)
            for start, end, version in zip(starts, ends, VERSIONS, strict=False)
        ),
    )
    version = model.version_for(user_id)
    assert version is not None
    assert version.spec.version == RouteTable.of(route).version_of(bucket("m", user_id))


def test_without_traffic_a_user_has_no_version() -> None:
    """The versions are there all the same."""
    model = served_model("m", 1, *VERSIONS, active=False)
    assert model.version_for("u") is None
    assert ServingTable(models={"m": model}).versions() == set(VERSIONS)


def test_the_longest_timeout_of_a_table() -> None:
    """Of all versions, in seconds; 0 without any."""
    assert ServingTable().longest_timeout_seconds() == 0.0
    assert ServingTable(models={"m": served_model("m", 1, *VERSIONS)}).longest_timeout_seconds() == 0.3


def test_the_cache_keys_of_a_version_contain_its_spec() -> None:
    """A name that is registered again with another artifact has other keys; equal specs have equal keys."""
    spec = spec_of("v1")
    other = spec.model_copy(update={"artifact_sha256": "f" * 64})
    prefixes = [cache_prefix_of(*of) for of in (("m", spec), ("m", other), ("n", spec))]
    assert len(set(prefixes)) == len(prefixes)
    assert VERSIONS[0].cache_prefix == cache_prefix_of("m", VERSIONS[0].spec)
    assert cache_prefix_of("m", spec_of("v1")) == prefixes[0]


def test_words_for_people_make_no_cache_cold() -> None:
    """`description` and `tags` do not change predictions; all other fields may."""
    spec = spec_of("v1")
    described = spec.model_copy(update={"description": "first trial", "tags": {"git": "1de59e3"}})
    assert cache_prefix_of("m", described) == cache_prefix_of("m", spec)
    for field in spec.model_dump().keys() - {"description", "tags"}:
        changed = spec.model_copy(update={field: "changed"})
        with warnings.catch_warnings():
            # The value is not of the field's type, which does not matter here.
            warnings.simplefilter("ignore")
            assert cache_prefix_of("m", changed) != cache_prefix_of("m", spec), field


def test_what_is_not_a_schema_cannot_be_served() -> None:
    """The error names the version."""
    spec = spec_of("v1").model_copy(update={"output_schema": {"type": "no-such-type"}})
    with pytest.raises(ArtifactError, match="m v1 has a bad schema"):
        ServedVersion.of("m", spec, VERSIONS[0].dispatcher)


@pytest.mark.parametrize("side", ["input_schema", "output_schema"])
def test_a_schema_that_is_too_large_is_told(side: str) -> None:
    """An earlier release registered it; its validation could hold the interpreter."""
    schema = {"properties": {"x": {"enum": [[number] for number in range(MAX_COMPOSITE_MEMBERS + 1)]}}}
    with pytest.raises(ArtifactError, match=r"m v1 has a bad schema: an enum has 17 arrays and objects"):
        ServedVersion.of("m", spec_of("v1").model_copy(update={side: schema}), VERSIONS[0].dispatcher)


def test_a_refusal_has_the_details_of_the_schema() -> None:
    """Of the input's schema, or the output's."""
    number = {"type": "object", "properties": {"x": {"type": "number"}}}
    version = served_version("m", "v1", RecordingBackend(), number, output_schema=number)
    explanations = Explanations()
    for error in (
        version.refuse_input({"x": "text"}, explanations),
        version.refuse_output({"x": "text"}, explanations),
    ):
        assert [detail.path for detail in error.details] == ["/x"]


def test_details_are_omitted_when_the_budget_is_used_up() -> None:
    """The answers say so; a slice of invalid inputs must not hold up the others."""
    numbers = {"type": "object", "properties": {"x": {"items": {"type": "number"}}}}
    version = served_version("m", "v1", RecordingBackend(), numbers)
    explanations = Explanations()
    errors = [version.refuse_input({"x": ["1.5"] * 768}, explanations) for _ in range(500)]
    explained = [error for error in errors if error.details]
    assert 50 < len(explained) < 150
    assert errors[: len(explained)] == explained
    assert all(OMITTED in error.message for error in errors[len(explained) :])

"""The history of a model, and the version of a user now and earlier, on the command line."""

import orjson
import pytest

from registry.routing import RouteTable, bucket
from schemas.models import Route
from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.stack.command import headrace

USER = "u1"


@pytest.fixture
async def settings(database: str) -> Settings:
    """Model `m` with seven revisions; the last but one reshuffles its users."""
    await apply(
        database,
        event("register", model=spec("v1")),
        event("register", model=spec("v2")),
        event("promote", version="v1", reason="the first"),
        event("canary", version="v2", weight=50, actor="ann", reason="offline AUC +1.2%"),
        event("canary", version="v2", weight=60, actor="ann"),
        event("reshuffle", salt="autumn"),
        event("register", model=spec("v3")),
    )
    return Settings.model_validate({"postgres_dsn": database})


async def test_history_is_a_line_for_each_change(settings: Settings) -> None:
    """For people the change, the actor and the reason; for programs the whole state before and after."""
    listed = (await headrace("history", "m", settings=settings)).stdout.splitlines()
    assert listed[0].split() == ["time", "rev", "action", "changed", "actor", "reason"]
    assert [line.split()[1:3] for line in listed[1:]] == [
        [str(revision), action]
        for revision, action in enumerate(
            ("register", "register", "promote", "canary", "canary", "reshuffle", "register"), start=1
        )
    ]
    assert " ".join(listed[4].split()[2:]) == "canary v1 100 → 50%, v2 0 → 50% ann offline AUC +1.2%"
    (changes,) = (await headrace("history", "m", "--json", settings=settings)).documents
    assert [change["revision"] for change in changes] == list(range(1, 8))
    assert changes[0]["before"] is None
    assert changes[3]["before"] == changes[2]["after"]
    assert changes[3]["after"]["weights"] == {"v1": 50.0, "v2": 50.0}
    assert (changes[3]["actor"], changes[3]["reason"]) == ("ann", "offline AUC +1.2%")


async def test_route_agrees_with_the_workers_at_every_revision(settings: Settings) -> None:
    """Version and bucket are those by which a worker routed at that revision, the reshuffle between."""
    (changes,) = (await headrace("history", "m", "--json", settings=settings)).documents
    for change in changes:
        arguments = ("--user", USER, "--at-revision", str(change["revision"]), "--json")
        (told,) = (await headrace("route", "m", *arguments, settings=settings)).documents
        salt = change["after"]["salt"]
        table = RouteTable.of(
            Route.model_validate_json(orjson.dumps({"salt": salt, "ranges": change["ranges"]}))
        )
        place = bucket(salt, USER)
        assert (told["salt"], told["bucket"], told["version"]) == (salt, place, table.version_of(place))
        if told["version"] is not None:
            assert told["start"] <= place < told["end"]
            assert told["weight"] == change["after"]["weights"][told["version"]]
            assert told["status"] == change["after"]["statuses"][told["version"]]
            assert told["since"]["revision"] <= change["revision"]
    (today,) = (await headrace("route", "m", "--user", USER, "--json", settings=settings)).documents
    assert today == told


async def test_route_says_why_in_words(settings: Settings) -> None:
    """The version, the bucket, the range, and since which change; or that nothing took traffic."""
    told = (await headrace("route", "m", "--user", USER, "--at-revision", "3", settings=settings)).stdout
    lines = told.splitlines()
    assert lines[0] == "u1 gets v1 of m at revision 3"
    assert lines[1] == f"bucket {bucket('m', USER)} of 0 to 9999, by the salt m"
    assert lines[2] == "buckets 0 to 9999 go to v1, production, 100% of all users"
    assert lines[3].startswith("since revision 3, promote by op at 20")
    assert lines[3].endswith(": the first")
    early = await headrace("route", "m", "--user", USER, "--at-revision", "2", settings=settings)
    assert early.stdout.splitlines()[0] == "u1 gets no version of m at revision 2: nothing takes traffic"
    assert early.code == 0


async def test_what_is_not_there_is_refused_with_what_is(settings: Settings) -> None:
    """A revision that does not exist, an unknown model, a user id that no request can have."""
    for revision in ("0", "8"):
        arguments = ("route", "m", "--user", USER, "--at-revision", revision)
        ended = await headrace(*arguments, "--json", settings=settings)
        assert (ended.code, ended.documents[0]["error"]["code"]) == (REFUSED, "INVALID_REQUEST")
        assert f"m has no revision {revision}: it has 1 to 7 (`headrace history m`)" in ended.stderr
    for verb in (["history", "other"], ["route", "other", "--user", USER]):
        ended = await headrace(*verb, settings=settings)
        assert ended.code == REFUSED
        assert ended.stderr.startswith("headrace: UNKNOWN_MODEL: there is no model other")
    ended = await headrace("route", "m", "--user", "\udcff", settings=settings)
    assert ended.code == REFUSED
    assert "--user is not UTF-8" in ended.stderr

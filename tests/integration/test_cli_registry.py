"""A version is shipped and taken back on the command line, against a real registry and without Kafka."""

from pathlib import Path

import asyncpg
import orjson
import pytest

from registry.store import RegistryStore
from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from tests.support.promotions.events import connection_killed_at_the_lock, event, spec
from tests.support.stack.command import Ended, headrace


@pytest.fixture
def settings(database: str) -> Settings:
    """Settings with an empty registry of the test's own."""
    return Settings.model_validate({"postgres_dsn": database})


@pytest.fixture
async def live(settings: Settings) -> Settings:
    """The same with model `m`: v1 in production, v2 in staging."""
    store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
    try:
        for one in (
            event("register", model=spec("v1")),
            event("register", model=spec("v2", created_by="ann")),
            event("promote", version="v1"),
        ):
            assert (await store.apply(one)).status == "applied"
    finally:
        await store.close()
    return settings


async def direct(*arguments: str, settings: Settings, stdin: bytes = b"") -> Ended:
    """A verb that changes a model, where the way of its event is not the subject."""
    return await headrace(*arguments, "--direct", settings=settings, stdin=stdin)


def refused(ended: Ended, code: str) -> None:
    assert ended.code == REFUSED, ended
    assert ended.stderr.startswith(f"headrace: {code}: ")
    assert ended.stdout == ""


async def test_a_version_is_registered_and_goes_live(settings: Settings, tmp_path: Path) -> None:
    """From a file or standard input; each answer says the revision and the traffic of each version."""
    document = {"model_name": "m", "model": spec("v1")}
    file = tmp_path / "v1.json"
    file.write_bytes(orjson.dumps(document))
    first = await direct("register", "-f", str(file), settings=settings)
    assert (first.code, first.stdout) == (0, "applied: m is at revision 1, nothing takes traffic yet\n")
    second = orjson.dumps(document | {"model": spec("v2")})
    assert (await direct("register", "-f", "-", stdin=second, settings=settings)).code == 0
    promoted = await direct("promote", "m", "v1", settings=settings)
    assert promoted.stdout == "applied: m is at revision 3, v1 100%\n"
    again = await direct("register", "-f", str(file), settings=settings)
    assert (again.code, again.stdout) == (0, "unchanged: m is at revision 3, v1 100%\n")
    file.write_bytes(orjson.dumps(document | {"model": spec("v1", timeout_ms=7)}))
    refused(await direct("register", "-f", str(file), settings=settings), "VERSION_EXISTS")


async def test_a_canary_is_raised_promoted_and_rolled_back(live: Settings) -> None:
    """The way of every release, and back; --json prints the result as on the topic."""
    (canary,) = (
        await direct("canary", "m", "v2", "5.25", "--actor", "bo", "--json", settings=live)
    ).documents
    assert (canary["status"], canary["revision"], canary["actor"]) == ("applied", 4, "bo")
    assert [part["version"] for part in canary["route"]["ranges"]] == ["v1", "v2"]
    withdrawn = await direct("rollback", "m", settings=live)
    assert withdrawn.stdout == "applied: m is at revision 5, v1 100%\n"
    refused(await direct("rollback", "m", settings=live), "ILLEGAL_TRANSITION")
    promoted = await direct("promote", "m", "v2", "--expected-revision", "5", settings=live)
    assert promoted.stdout == "applied: m is at revision 6, v2 100%\n"
    back = await direct("rollback", "m", "--version", "v1", settings=live)
    assert back.stdout == "applied: m is at revision 7, v1 100%\n"


async def test_a_refusal_has_exit_code_2_its_code_and_a_sentence(live: Settings) -> None:
    """Whether the registry refuses, or the words make no event; with --json as the result says it."""
    stale = await direct("promote", "m", "v2", "--expected-revision", "1", settings=live)
    refused(stale, "STALE_REVISION")
    refused(await direct("canary", "m", "v2", "much", settings=live), "BAD_WEIGHT")
    refused(await direct("promote", "No Model", "v2", settings=live), "INVALID_EVENT")
    refused(await direct("register", "-f", "-", stdin=b"[]", settings=live), "INVALID_EVENT")
    as_json = await direct("rollback", "m", "--json", settings=live)
    assert as_json.code == REFUSED
    assert as_json.documents[-1]["status"] == "rejected"
    assert as_json.documents[-1]["error"]["code"] == "ILLEGAL_TRANSITION"


async def test_a_registry_that_is_not_there_has_exit_code_3() -> None:
    """The exit code differs from that of a refusal, so that a script can try again."""
    nowhere = Settings.model_validate({"postgres_dsn": "postgresql://127.0.0.1:1/headrace"})
    ended = await direct("promote", "m", "v1", settings=nowhere)
    assert ended.code == 3
    assert "127.0.0.1" in ended.stderr


async def test_a_promotion_of_unknown_fate_says_where_to_look(live: Settings, database: str) -> None:
    """The connection died with the event on its way: sending it again blindly would be a second one."""
    connection = await asyncpg.connect(database)
    async with connection_killed_at_the_lock(connection):
        ended = await direct("promote", "m", "v2", settings=live)
    await connection.close()
    assert ended.code == 3
    assert "may have been applied: look at `headrace status m`" in ended.stderr


async def test_status_draws_the_split(live: Settings) -> None:
    """Production and canaries as bars; programs get weights and ranges."""
    await direct("canary", "m", "v2", "25", settings=live)
    drawn = (await headrace("status", "m", settings=live)).stdout.splitlines()
    assert drawn[0] == "m, revision 4, salt m"
    assert drawn[1].split() == ["v1", "production", "75%", "█" * 30]
    assert drawn[2].split() == ["v2", "canary", "25%", "█" * 10]
    (document,) = (await headrace("status", "m", "--json", settings=live)).documents
    assert document["production"] == "v1"
    assert document["versions"][1] == {"version": "v2", "status": "canary", "weight": 25.0}
    assert document["ranges"][-1] == {"start": 7500, "end": 10000, "version": "v2"}


async def test_versions_lists_what_was_registered(live: Settings) -> None:
    """For people a line each, for programs the whole spec; an unknown model is an error."""
    listed = (await headrace("versions", "m", settings=live)).stdout.splitlines()
    assert listed[1].split() == ["v1", "production", "100%", "open-inference", "http://127.0.0.1:9"]
    assert listed[2].split() == ["v2", "staging", "open-inference", "http://127.0.0.1:9", "ann"]
    (documents,) = (await headrace("versions", "m", "--json", settings=live)).documents
    assert [one["status"] for one in documents] == ["production", "staging"]
    assert documents[1] | spec("v2", created_by="ann") == documents[1]
    refused(await headrace("versions", "other", settings=live), "UNKNOWN_MODEL")

"""PostgreSQL stops or hangs under load: answers continue from the worker's routes, and say when these are stale."""

import asyncio
from collections.abc import Callable
from operator import methodcaller

import pytest

from deploy.local.postgres import Postgres
from tests.support.models.served_model import apply
from tests.support.promotions.events import event
from tests.support.worker.group import MakeGroup
from tests.support.worker.http_pages import readiness


@pytest.mark.parametrize(
    ("harm", "heal"),
    [(methodcaller("stop"), methodcaller("start")), (methodcaller("pause"), methodcaller("resume"))],
    ids=["stopped", "hanging"],
)
async def test_postgres_fails(
    make_group: MakeGroup,
    own_postgres: Postgres,
    harm: Callable[[Postgres], None],
    heal: Callable[[Postgres], None],
) -> None:
    """`stale` appears after its time and goes when PostgreSQL is back, and the next promotion is followed.

    `/readyz` says yes all the time: an orchestrator must not replace a worker that answers.
    """
    group = await make_group(
        postgres_dsn=own_postgres.dsn, registry_poll_seconds=0.2, stale_after_seconds=1.0, http_port=0
    )
    (worker,) = await group.start("one")
    port = (await worker.logged("http served"))["port"]
    async with group.traffic() as traffic:
        await traffic.until_answered(lambda response: not response.stale, "fresh")
        await asyncio.to_thread(harm, own_postgres)
        # No request waits for PostgreSQL: requests that are sent while it is away are answered while it is away.
        await traffic.until_answered(lambda response: response.stale, "stale")
        assert (await readiness(port))["ready"]
        await asyncio.to_thread(heal, own_postgres)
        await traffic.until_answered(lambda response: not response.stale, "fresh again")
        await apply(own_postgres.dsn, event("promote", group.model, version="v2"))
        await worker.logged("serving table swapped", times=2)
        first = len(traffic.sent)
        await traffic.until_answered()
        assert await traffic.end() == 0
        assert {traffic.version(number) for number in range(first, len(traffic.sent))} == {"v2"}
    await group.end(worker)

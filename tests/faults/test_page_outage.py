"""PostgreSQL stops or hangs under the live page: it says so, and goes on by itself."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from operator import methodcaller

import pytest

from deploy.local.postgres import Postgres
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.stack.services import MakeTopics
from tests.support.worker.live_page import events, live_page


@pytest.mark.parametrize(
    ("harm", "heal"),
    [(methodcaller("stop"), methodcaller("start")), (methodcaller("pause"), methodcaller("resume"))],
    ids=["stopped", "hanging"],
)
async def test_an_outage_is_shown_and_what_follows_it(
    topics: MakeTopics,
    own_postgres: Postgres,
    harm: Callable[[Postgres], None],
    heal: Callable[[Postgres], None],
) -> None:
    """One stream sees it all: the page's connection is not what failed."""
    settings = await topics(1, postgres_dsn=own_postgres.dsn)
    await apply(own_postgres.dsn, event("register", "m", model=spec("v1")))
    async with live_page(settings) as page, aclosing(events(page.url)) as stream:

        async def until(wanted: str) -> None:
            async with asyncio.timeout(DEADLINE_SECONDS):
                async for name, state in stream:
                    if name == wanted:
                        assert name == "trouble" or state["models"][0]["model_name"] == "m"
                        return

        await until("state")
        await asyncio.to_thread(harm, own_postgres)
        await until("trouble")
        await asyncio.to_thread(heal, own_postgres)
        await until("state")
        assert await page.interrupted() == 0

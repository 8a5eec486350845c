"""streams/headrace_client/pending_replies.py: correlation of replies with requests, abandoned requests, and closing."""

import asyncio
import json

import pytest

from schemas.errors import BrokerUnavailableError, InternalError
from schemas.events import JsonObject
from schemas.wire import object_or_none
from streams.headrace_client.pending_replies import PendingReplies, ReplyForm


def parse(document: JsonObject, _: bytes) -> str:
    if "answer" not in document:
        raise InternalError("no answer")
    return str(document["answer"])


@pytest.fixture
def pending() -> PendingReplies[str]:
    return PendingReplies(
        ReplyForm("id", object_or_none, parse), BrokerUnavailableError("the client is closed")
    )


def reply_to(correlation_id: object, answer: str = "yes") -> bytes:
    return json.dumps({"id": correlation_id, "answer": answer}).encode()


async def test_each_request_gets_its_own_reply(pending: PendingReplies[str]) -> None:
    """Two requests may share a key; the id of the reply decides."""
    one, two = pending.expect("1", b"k"), pending.expect("2", b"k")
    pending.deliver(b"k", reply_to("2", "of two"))
    pending.deliver(b"k", reply_to("1", "of one"))
    assert (await one, await two) == ("of one", "of two")


async def test_a_repeated_reply_is_ignored(pending: PendingReplies[str]) -> None:
    """The first reply counts."""
    reply = pending.expect("1", b"k")
    pending.deliver(b"k", reply_to("1", "first"))
    pending.deliver(b"k", reply_to("1", "second"))
    assert await reply == "first"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"another", reply_to("1")),
        (b"k", reply_to("2")),
        (b"k", reply_to(["1"])),
        (b"k", b"{"),
        (b"k", b"[]"),
        (b"k", None),
    ],
    ids=["key", "id", "type-of-id", "not-json", "not-an-object", "no-value"],
)
async def test_records_of_others_are_ignored(
    pending: PendingReplies[str], key: bytes | None, value: bytes | None
) -> None:
    """Anybody may write to the reply topic."""
    reply = pending.expect("1", b"k")
    pending.deliver(key, value)
    assert not reply.done()
    pending.deliver(b"k", reply_to("1"))
    assert await reply == "yes"


async def test_a_reply_without_a_key_is_read(pending: PendingReplies[str]) -> None:
    """A response that was too large for its topic comes without its key."""
    reply = pending.expect("1", b"k")
    pending.deliver(None, reply_to("2"))
    assert not reply.done()
    pending.deliver(None, reply_to("1"))
    assert await reply == "yes"


async def test_a_reply_that_breaks_the_contract_fails_its_request_only(pending: PendingReplies[str]) -> None:
    """Its caller gets the parser's error."""
    broken, other = pending.expect("1", b"k"), pending.expect("2", b"k")
    pending.deliver(b"k", b'{"id": "1"}')
    with pytest.raises(InternalError, match="no answer"):
        await broken
    assert not other.done()
    other.cancel()


async def test_an_id_can_be_used_again_after_its_reply_or_its_cancellation(
    pending: PendingReplies[str],
) -> None:
    """Nothing remains of a request that has ended; its key is still matched for the others."""
    first, other = pending.expect("1", b"k"), pending.expect("2", b"k")
    assert "1" in pending
    first.cancel()
    await asyncio.sleep(0)
    assert "1" not in pending
    again = pending.expect("1", b"k")
    pending.deliver(b"k", reply_to("1"))
    pending.deliver(b"k", reply_to("2"))
    assert (await again, await other) == ("yes", "yes")


async def test_closing_fails_pending_and_later_requests(pending: PendingReplies[str]) -> None:
    """A caller must not wait for a reply that nobody reads."""
    with pending.closing():
        reply = pending.expect("1", b"k")
    with pytest.raises(BrokerUnavailableError, match="closed"):
        await reply
    with pytest.raises(BrokerUnavailableError, match="closed"):
        pending.expect("2", b"k")


async def test_the_error_that_ends_the_reader_reaches_all_requests(pending: PendingReplies[str]) -> None:
    """The reason is more useful than "closed"."""

    async def read() -> None:
        with pending.closing():
            raise BrokerUnavailableError("no route")

    reply = pending.expect("1", b"k")
    with pytest.raises(BrokerUnavailableError, match="no route"):
        await read()
    with pytest.raises(BrokerUnavailableError, match="no route"):
        await reply
    with pytest.raises(BrokerUnavailableError, match="no route"):
        pending.expect("2", b"k")

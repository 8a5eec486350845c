"""streams/serving/waiting_requests.py: what leaves in which turn, and what the slice learns of it."""

import asyncio
import time

from schemas.errors import BackendFailedError
from streams.kafka.offset_tracker import Partition, Slice, SliceLimits
from streams.serving.bulkhead import Bulkhead
from streams.serving.output_buffer import OutputBuffer
from streams.serving.requests import RequestContext
from streams.serving.waiting_requests import WaitingRequests
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend, record_of, served_version

VERSION = served_version("m", "v1", RecordingBackend())
OTHER = served_version("m", "v2", RecordingBackend())
NEVER = 0.0


def waiting_of(count: int) -> tuple[Slice, list[RequestContext], WaitingRequests]:
    """A slice whose requests with an odd offset wait."""
    records = [record_of(b"{}", offset=offset) for offset in range(2 * count)]
    handled = Slice(Partition("t", 0), records, 1, received_at=0.0, limits=SliceLimits(1, 1))
    requests = [RequestContext(record) for record in records[1::2]]
    waiting = WaitingRequests(handled, Bulkhead(), OutputBuffer(1 << 26))
    waiting.add(VERSION, requests)
    return handled, requests, waiting


def test_the_slice_learns_what_is_delivered_and_nothing_earlier() -> None:
    """Deliveries end in any order, and records that never waited have one of their own."""
    handled, requests, waiting = waiting_of(4)
    assert handled.first_unanswered() == 0
    waiting.offer(VERSION, requests[:1], [b"1"])
    first = waiting.take(NEVER)
    waiting.offer(VERSION, requests[1:2], [b"1"])
    second = waiting.take(NEVER)
    waiting.delivered(second)
    assert handled.first_unanswered() == 0
    waiting.delivered(None)
    assert handled.first_unanswered() == 1
    waiting.delivered(first)
    assert handled.first_unanswered() == 5
    assert [record.offset for record in handled.records] == [1, 5, 7]


def test_a_request_that_waits_again_is_not_answered() -> None:
    """Production is asked for it, also when it was the last one that waited."""
    handled, requests, waiting = waiting_of(2)
    waiting.delivered(None)
    waiting.offer(VERSION, requests, [b"1", BackendFailedError("no")])
    turn = waiting.take(NEVER)
    assert not waiting
    waiting.add(VERSION, requests[1:])
    assert handled.first_unanswered() == 1
    waiting.delivered(turn)
    assert handled.first_unanswered() == 3


def test_results_leave_by_version_and_once() -> None:
    """Those of several batches together; a request that has left is ignored."""
    handled, requests, _ = waiting_of(4)
    bulkhead = Bulkhead()
    waiting = WaitingRequests(handled, bulkhead, OutputBuffer(1 << 26))
    waiting.add(VERSION, [requests[0], *requests[2:]])
    waiting.add(OTHER, requests[1:2])
    assert (bulkhead.waiting("m", "v1"), bulkhead.waiting("m", "v2")) == (3, 1)
    waiting.offer(VERSION, requests[:1], [b"0"])
    waiting.offer(OTHER, requests[1:2], [b"1"])
    waiting.offer(VERSION, requests[2:3], [b"2"])
    turn = waiting.take(NEVER)
    assert turn.ready == {
        VERSION: ([requests[0], requests[2]], [b"0", b"2"]),
        OTHER: ([requests[1]], [b"1"]),
    }
    waiting.offer(VERSION, requests[2:], [b"late", b"3"])
    assert (bulkhead.waiting("m", "v1"), bulkhead.waiting("m", "v2")) == (1, 0)
    assert waiting.take(NEVER).ready == {VERSION: ([requests[3]], [b"3"])}
    assert not waiting
    assert bulkhead.waiting("m", "v1") == 0


def test_what_waits_when_a_slice_fails_stays_unanswered() -> None:
    """It is not committed. The bulkhead does not count it any more, and later deliveries change nothing."""
    handled, requests, _ = waiting_of(2)
    bulkhead = Bulkhead()
    waiting = WaitingRequests(handled, bulkhead, OutputBuffer(1 << 26))
    waiting.add(VERSION, requests)
    waiting.delivered(None)
    waiting.offer(VERSION, requests[:1], [b"1"])
    turn = waiting.take(NEVER)
    waiting.close()
    assert handled.first_unanswered() == 1
    waiting.delivered(turn)
    assert handled.first_unanswered() == 3
    assert bulkhead.waiting("m", "v1") == 0


async def test_waiting_ends_at_the_first_deadline() -> None:
    """The overdue leave without a result, and a result that comes with them is too late."""
    handled, requests, _ = waiting_of(3)
    now_unix_ms = time.time() * 1000
    for request, deadline in zip(requests, (now_unix_ms, None, now_unix_ms), strict=True):
        request.deadline_unix_ms = deadline
    timed = WaitingRequests(handled, Bulkhead(), OutputBuffer(1 << 26))
    timed.add(VERSION, requests)
    await asyncio.wait_for(timed.wait(), DEADLINE_SECONDS)
    timed.offer(VERSION, requests[:2], [b"0", b"1"])
    turn = timed.take(now_unix_ms)
    assert turn.overdue == [requests[0], requests[2]]
    assert turn.ready == {VERSION: ([requests[1]], [b"1"])}


async def test_an_offer_ends_the_wait() -> None:
    """Also one that came before it."""
    _, requests, waiting = waiting_of(1)
    began = asyncio.create_task(waiting.wait())
    await asyncio.sleep(0)
    assert not began.done()
    waiting.offer(VERSION, requests, [b"1"])
    await asyncio.wait_for(began, DEADLINE_SECONDS)
    await asyncio.wait_for(waiting.wait(), DEADLINE_SECONDS)

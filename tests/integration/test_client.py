"""streams/clients/predict_client.py on a real broker, with an echo in the place of the worker."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from schemas.errors import (
    BrokerUnavailableError,
    InvalidRequestError,
    ResponseTimeoutError,
    SetupError,
    VersionOverloadedError,
)
from schemas.events import JsonObject, PredictRequest, PredictResponse
from streams.clients.predict_client import PredictClient, make_request
from streams.config.settings import Settings
from streams.kafka.topics import partition_counts
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.kafka.echo_responder import echo, failing, responder
from tests.support.stack.services import MakeTopics


def request_of(number: int, **input_fields: object) -> PredictRequest:
    return make_request("m", user_id=f"u{number}", input={"n": number, **input_fields})


async def test_predict_awaits_its_own_response(topics: MakeTopics) -> None:
    """Many tasks share one client, and each gets the response to its own request."""
    settings = await topics()
    async with responder(settings), PredictClient(settings) as client:
        responses = await asyncio.gather(
            *(client.predict("m", user_id="same-user", input={"n": number}) for number in range(50))
        )
    assert [response.predictions for response in responses] == [{"n": number} for number in range(50)]


async def test_any_of_the_bootstrap_servers_will_do(topics: MakeTopics) -> None:
    """The first one is gone: the client and the command line use the second one."""
    whole = await topics(1)
    settings = whole.model_copy(update={"kafka_bootstrap": f"127.0.0.1:1,{whole.kafka_bootstrap}"})
    async with responder(whole), PredictClient(settings) as client:
        response = await client.predict("m", user_id="u", input={"n": 1})
    assert response.predictions == {"n": 1}
    assert await partition_counts(settings, [settings.topic_requests]) == {settings.topic_requests: 1}


async def test_predict_returns_a_response_with_error(topics: MakeTopics) -> None:
    """An error answered by the worker is a response, not an exception."""
    settings = await topics()
    async with responder(settings, failing), PredictClient(settings) as client:
        response = await client.predict("m", user_id="u", input={"fail": True})
    assert response.error is not None
    assert response.error.code == "INVALID_INPUT"


async def test_overloaded_is_an_error_that_says_to_retry(topics: MakeTopics) -> None:
    """It has the response; `predict_many` yields it and continues."""

    def overloaded(request: JsonObject) -> JsonObject | None:
        response = failing(request)
        if response is not None and "error" in response:
            response["error"] |= {"code": "OVERLOADED", "message": "too many"}
        return response

    settings = await topics()
    async with responder(settings, overloaded), PredictClient(settings) as client:
        with pytest.raises(VersionOverloadedError, match="was refused with OVERLOADED: too many") as refused:
            await client.predict("m", user_id="u", input={"fail": True})
        assert refused.value.response.model_version == "v1"
        requests = [request_of(1, fail=True), request_of(2)]
        first, second = [answer async for answer in client.predict_many(requests)]
    assert isinstance(first, VersionOverloadedError)
    assert isinstance(second, PredictResponse)


async def test_two_clients_do_not_take_each_others_responses(topics: MakeTopics) -> None:
    """Both read the whole topic, also for the same user, and each resolves only its own."""
    settings = await topics(1)
    async with responder(settings), PredictClient(settings) as one, PredictClient(settings) as other:
        answers = await asyncio.gather(
            *(
                client.predict("m", user_id="u", input={"of": name})
                for name, client in (("one", one), ("other", other), ("one", one), ("other", other))
            )
        )
    assert [answer.predictions["of"] for answer in answers] == ["one", "other", "one", "other"]


async def test_no_response_in_time_is_a_clear_error(topics: MakeTopics) -> None:
    """Without a worker a prediction ends by its timeout, and the error names the request."""
    settings = await topics()
    async with PredictClient(settings) as client:
        with pytest.raises(ResponseTimeoutError, match=r"within 0.2 s; is a worker running") as timeout:
            await client.predict("m", user_id="u", input={}, timeout_seconds=0.2)
    assert timeout.value.request_id in str(timeout.value)


async def test_predict_many_answers_in_the_order_of_the_requests(topics: MakeTopics) -> None:
    """Over many partitions, answers come in the order asked, with at most `max_in_flight` waiting."""
    settings = await topics(4)
    taken = 0

    def requests() -> Iterator[PredictRequest]:
        nonlocal taken
        for number in range(2000):
            taken += 1
            yield request_of(number)

    seen = []
    async with responder(settings), PredictClient(settings) as client:
        async for answer in client.predict_many(requests(), max_in_flight=100):
            assert isinstance(answer, PredictResponse)
            seen.append(answer.predictions["n"])
            assert taken - len(seen) <= 100
    assert seen == list(range(2000))


async def test_predict_many_goes_on_past_what_is_not_answered(topics: MakeTopics) -> None:
    """A request without a response yields its timeout; those before and after it are answered."""

    def all_but_seven(request: JsonObject) -> JsonObject | None:
        return None if request["input"]["n"] == 7 else echo(request)

    settings = await topics()
    async with responder(settings, all_but_seven), PredictClient(settings) as client:
        requests = [request_of(number) for number in range(20)]
        # For the one that gets no answer; on a busy machine too the others are answered by then.
        answers = [answer async for answer in client.predict_many(requests, timeout_seconds=5.0)]
    assert [isinstance(answer, PredictResponse) for answer in answers] == [
        number != 7 for number in range(20)
    ]
    assert isinstance(answers[7], ResponseTimeoutError)
    assert answers[7].request_id == requests[7].request_id


async def test_predict_many_answers_while_the_source_is_idle(topics: MakeTopics) -> None:
    """A slow source of requests does not hold back the answers to those already sent."""
    settings = await topics()
    more = asyncio.Event()

    async def slow_source() -> AsyncIterator[PredictRequest]:
        yield request_of(1)
        await more.wait()
        yield request_of(2)

    async with responder(settings), PredictClient(settings) as client:
        answers = client.predict_many(slow_source())
        first = await anext(answers)
        more.set()
        rest = [answer async for answer in answers]
    assert isinstance(first, PredictResponse)
    assert len(rest) == 1


async def test_predict_many_raises_what_the_source_raises_after_the_answers_before(
    topics: MakeTopics,
) -> None:
    """An unreadable source ends the stream, but the requests that were sent are still answered."""
    settings = await topics()

    def source() -> Iterator[PredictRequest]:
        yield request_of(1)
        raise InvalidRequestError("line 2 is wrong")

    async with responder(settings), PredictClient(settings) as client:
        answers = client.predict_many(source())
        assert isinstance(await anext(answers), PredictResponse)
        with pytest.raises(InvalidRequestError, match="line 2"):
            await anext(answers)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"user_id": ""}, "user_id"),
        ({"user_id": "u", "deadline_ms": 0}, "deadline_ms"),
        ({"user_id": "u", "input": {"n": 2**70}}, "JSON"),
        ({"user_id": "u", "input": {"text": "x" * 2_000_000}}, "at most 1048576"),
    ],
)
async def test_what_breaks_the_contract_is_not_sent(
    topics: MakeTopics, fields: dict[str, object], told: str
) -> None:
    """A request that no worker would take is refused before it is sent."""
    settings = await topics(1)
    async with PredictClient(settings) as client:
        with pytest.raises(InvalidRequestError, match=told):
            await client.predict("m", **({"input": {}} | fields))  # type: ignore[arg-type]


async def test_a_request_id_in_flight_is_refused(topics: MakeTopics) -> None:
    """The responses to two requests with one id could not be matched."""
    settings = await topics(1)
    request = request_of(1)
    async with PredictClient(settings) as client:
        answers = client.predict_many([request, request], timeout_seconds=0.2)
        assert isinstance(await anext(answers), ResponseTimeoutError)
        with pytest.raises(InvalidRequestError, match="in flight already"):
            await anext(answers)


async def test_an_unreachable_broker_and_a_missing_topic_are_told_apart(topics: MakeTopics) -> None:
    """One is a matter of waiting or of the address, the other of creating the topic."""
    # Port 1 is reserved and no server listens on it.
    with pytest.raises(BrokerUnavailableError, match=r"127.0.0.1:1"):
        await PredictClient(Settings(kafka_bootstrap="127.0.0.1:1")).__aenter__()
    settings = await topics(1)
    absent = settings.model_copy(update={"topic_responses": "absent"})
    with pytest.raises(SetupError, match="has no topic absent"):
        await PredictClient(absent).__aenter__()


async def test_closing_the_client_ends_what_waits(topics: MakeTopics) -> None:
    """A call that awaits a response when the client closes gets an error at once."""
    settings = await topics(1)
    received = asyncio.Event()

    def silent(_request: JsonObject) -> JsonObject | None:
        received.set()
        return None

    async with responder(settings, silent), PredictClient(settings) as client:
        waiting = asyncio.create_task(client.predict("m", user_id="u", input={}, timeout_seconds=60))
        await asyncio.wait_for(received.wait(), DEADLINE_SECONDS)
    with pytest.raises(BrokerUnavailableError, match="closed"):
        await asyncio.wait_for(waiting, DEADLINE_SECONDS)


async def test_predict_many_carries_thousands(topics: MakeTopics) -> None:
    """Far more requests than may be unanswered at once: all of them are answered, once each."""
    settings = await topics(4)
    requests = [request_of(number) for number in range(5_000)]
    answered = []
    async with responder(settings), PredictClient(settings) as client:
        async for answer in client.predict_many(requests):
            assert isinstance(answer, PredictResponse)
            answered.append(answer.request_id)
    assert len(answered) == 5_000
    assert set(answered) == {request.request_id for request in requests}

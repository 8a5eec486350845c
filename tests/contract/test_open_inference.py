"""workers/backends/open_inference.py on a scripted server: messages, metadata and statuses."""

from asyncio import StreamWriter

import pytest

from schemas.errors import (
    ArtifactError,
    BackendFailedError,
    BackendTooLargeError,
    BackendUnavailableError,
    UnavailableError,
)
from tests.support.models.backends import open_inference
from tests.support.models.scripted_backend import answering, infer, served
from tests.support.servers.http_server import (
    HttpRequest,
    answer,
    doubled,
    http_server,
    serve_doubler,
)


async def test_what_is_sent() -> None:
    """One POST to /infer below the model's URL: JSON with an id, no credentials, no compression."""
    requests: list[HttpRequest] = []

    def note(request: HttpRequest) -> bytes:
        requests.append(request)
        return answer(doubled(request))

    async with served(answering(note)) as backend:
        assert await infer(backend) == [2, 4]
    (request,) = requests
    assert (request.method, request.path) == ("POST", "/v2/models/doubler/infer")
    assert request.json()["inputs"] == [{"name": "x", "datatype": "INT64", "shape": [2], "data": [1, 2]}]
    assert request.json()["id"]
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers


async def test_content_decides_and_not_its_type() -> None:
    """JSON that is labelled as text is parsed, and so is a body without a type."""
    kinds = iter(["content-type: text/plain\r\n", ""])
    async with served(answering(lambda request: answer(doubled(request), headers=next(kinds)))) as backend:
        assert await infer(backend) == [2, 4]
        assert await infer(backend) == [2, 4]


async def test_a_server_without_metadata_is_asked_by_the_schema() -> None:
    """With 405 or 501 on the model's URL the types come from the input schema."""
    for status in (405, 501):

        async def handle(request: HttpRequest, writer: StreamWriter, status: int = status) -> None:
            writer.write(answer(b"no", status) if request.method == "GET" else answer(doubled(request)))

        async with http_server(handle) as url:
            schema = {"properties": {"x": {"type": "integer"}}}
            backend = open_inference(f"{url}/v2/models/doubler", schema)
            await backend.warm()
            assert await infer(backend) == [2, 4]
            await backend.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, ArtifactError) for status in (302, 400, 401, 403, 404)),
        *((status, UnavailableError) for status in (429, 500, 502, 503)),
    ],
)
async def test_warming_tells_a_missing_model_from_a_busy_server(status: int, error: type[Exception]) -> None:
    """The first needs an operator, the second is temporary."""
    async with http_server(answering(answer({"error": "in its own words"}, status))) as url:
        backend = open_inference(f"{url}/v2/models/doubler")
        with pytest.raises(error, match="in its own words"):
            await backend.warm()
        await backend.close()


async def test_no_server_at_all() -> None:
    """Both `warm` and a prediction after the server's end are unavailable."""
    async with http_server(serve_doubler) as url:
        backend = open_inference(f"{url}/v2/models/doubler")
        await backend.warm()
    with pytest.raises(BackendUnavailableError):
        await infer(backend)
    with pytest.raises(UnavailableError):
        await backend.warm()
    await backend.close()


async def test_unwarmed_it_is_unavailable() -> None:
    """The types of the inputs are unknown."""
    backend = open_inference("http://127.0.0.1:9/v2/models/doubler")
    with pytest.raises(BackendUnavailableError, match="unknown until `warm`"):
        await infer(backend)
    await backend.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BackendFailedError),
        (413, BackendTooLargeError),
        (422, BackendFailedError),
        (500, BackendFailedError),
        (501, BackendFailedError),
        (204, BackendFailedError),
        (401, BackendUnavailableError),
        (404, BackendUnavailableError),
        (429, BackendUnavailableError),
        (502, BackendUnavailableError),
        (503, BackendUnavailableError),
        (504, BackendUnavailableError),
    ],
)
async def test_statuses(status: int, error: type[Exception]) -> None:
    """Refused and broken requests fail; unprocessed ones are unavailable."""
    body = b"" if status == 204 else b'{"error": "in its own words"}'
    async with served(answering(answer(body, status))) as backend:
        with pytest.raises(error, match=f"answered {status}: {'' if status == 204 else 'in its own words'}"):
            await infer(backend)


async def test_wrong_batches_are_refused() -> None:
    """A response with more or fewer predictions than examples is never assigned."""
    for shape, data in (([1], [2]), ([3], [2, 4, 6]), ([2, 1], [2])):
        y = {"name": "y", "datatype": "INT64", "shape": shape, "data": data}
        async with served(answering(answer({"outputs": [y]}))) as backend:
            with pytest.raises(BackendFailedError, match="output 'y'"):
                await infer(backend)


async def test_endpoints_are_checked() -> None:
    """The backend refuses an endpoint that is not allowed, before any call."""
    with pytest.raises(ArtifactError, match="HEADRACE_BACKEND_HOSTS"):
        open_inference("http://10.0.0.1/v2/models/m")
    with pytest.raises(ArtifactError, match="characters"):
        open_inference("http://127.0.0.1/v2/\x7f")

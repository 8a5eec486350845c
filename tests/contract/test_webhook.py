"""streams/monitoring/webhook.py: alerts come to their receiver, once it is there, and its URL comes nowhere else."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from schemas.errors import SetupError
from schemas.events import Alert
from streams.config.settings import Settings
from streams.monitoring import webhook as module
from streams.monitoring.webhook import ENDS_AFTER, MAX_TRIES, MAX_WAITING, Webhook, as_alertmanager
from streams.roles import monitor_role as role
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.servers.http_server import ENDLESS_BYTES, HttpRequest, answer, http_server, write_endless
from tests.support.stack.certificates import Certificates
from workers.network import connections

AT = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
FIRED = Alert(
    alert_id="a-1",
    model_name="m",
    model_version="v1",
    rule="latency_baseline",
    severity="warning",
    state="firing",
    value=90.0,
    threshold=30.0,
    baseline=10.0,
    window_seconds=10,
    at=AT,
)
RESOLVED = FIRED.model_copy(update={"state": "resolved", "at": AT + timedelta(minutes=3)})


@dataclass
class Receiver:
    """Answers with these, and then with 200."""

    answers: list[bytes] = field(default_factory=list)
    told: list[list[dict[str, Any]]] = field(default_factory=list)
    requests: list[HttpRequest] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(self.answers.pop(0) if self.answers else answer({}))
        self.note(request)

    def note(self, request: HttpRequest) -> None:
        self.requests.append(request)
        self.told.append(request.json())
        self.news.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.told) < count:
                self.news.clear()
                await self.news.wait()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once, and a minute is a tenth of a second."""
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(module, "AGAIN_EACH_SECONDS", 0.1)


@pytest.fixture
def no_authorities_read() -> Iterator[None]:
    """As in a process of its own."""
    connections._trusted.cache_clear()
    yield
    connections._trusted.cache_clear()


def of_settings(url: str, cafile: Path | None) -> Webhook:
    """As the monitor makes it."""
    settings = {"alert_webhook_url": url, "alert_webhook_ssl_cafile": None if cafile is None else str(cafile)}
    webhook = role._webhook(Settings.model_validate(settings))
    assert webhook is not None
    return webhook


def over_tls(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server_certificate, certificates.server_key)
    return context


@asynccontextmanager
async def telling(
    url: str, firing: Iterable[Alert] = (), webhook: Webhook | None = None
) -> AsyncIterator[Webhook]:
    webhook = webhook or Webhook(url)
    task = asyncio.create_task(webhook.run_delivery_loop(lambda: firing))
    try:
        yield webhook
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


def test_an_entry_is_as_alertmanager_takes_it() -> None:
    """What fires ends by itself unless it is told again; a resolved one has its end, and the same labels."""
    fired = as_alertmanager(FIRED, AT + timedelta(seconds=30))
    assert fired == {
        "labels": {
            "alertname": "latency_baseline",
            "rule": "latency_baseline",
            "scope": "model",
            "source": "headrace",
            "severity": "warning",
            "model_name": "m",
            "model_version": "v1",
        },
        "annotations": {
            "summary": "m v1: p99 of 10 s is 90.0 ms, baseline 10.0 ms, threshold 30.0 ms",
            "alert_id": "a-1",
        },
        "startsAt": "2026-11-25T12:00:00.000Z",
        "endsAt": "2026-11-25T12:05:30.000Z",
    }
    assert timedelta(minutes=5) == ENDS_AFTER
    resolved = as_alertmanager(RESOLVED, AT + timedelta(minutes=4))
    assert resolved["labels"] == fired["labels"]
    assert resolved["endsAt"] == "2026-11-25T12:03:00.000Z"
    assert "startsAt" not in resolved
    everybody = as_alertmanager(FIRED.model_copy(update={"model_name": "", "model_version": ""}), AT)
    assert set(everybody["labels"]) == {"alertname", "rule", "scope", "source", "severity"}


async def test_an_answer_without_end_is_an_answer() -> None:
    """Its body is not read, and the alert is not sent again."""
    written: list[int] = []
    receiver = Receiver()

    async def serve(request: HttpRequest, writer: asyncio.StreamWriter) -> bool | None:
        if not written:
            receiver.note(request)
            written.append(await write_endless(writer))
            return False
        await receiver.serve(request, writer)
        return None

    async with http_server(serve) as url, telling(url) as webhook:
        webhook.enqueue(RESOLVED)
        await receiver.until(1)
        webhook.enqueue(FIRED)
        await receiver.until(2)
    # What the sockets hold.
    assert written[0] < ENDLESS_BYTES // 10
    assert ["endsAt" in each[0] and "startsAt" in each[0] for each in receiver.told] == [False, True]
    assert [len(each) for each in receiver.told] == [1, 1]


async def test_it_is_told_again_until_the_receiver_takes_it() -> None:
    """Overloaded, broken, and gone in the middle."""
    receiver = Receiver([answer({}, 503), answer({}, 500), answer({}, 429), b""])
    async with http_server(receiver.serve) as url, telling(f"{url}/api/v2/alerts?token=secret") as webhook:
        webhook.enqueue(FIRED)
        await receiver.until(4)
    assert {tuple(each[0]["labels"].items()) for each in receiver.told} == {
        tuple(receiver.told[0][0]["labels"].items())
    }
    assert receiver.requests[0].path == "/api/v2/alerts?token=secret"
    assert receiver.requests[0].headers["content-type"] == "application/json"


async def test_what_fires_is_told_each_time_and_what_resolved_once() -> None:
    """Alertmanager forgets what it does not hear of."""
    receiver = Receiver()
    async with http_server(receiver.serve) as url, telling(url, [FIRED]) as webhook:
        await receiver.until(2)
        webhook.enqueue(RESOLVED)
        await receiver.until(5)
    ends = [each[0]["endsAt"] for each in receiver.told]
    assert all(len(each) == 1 for each in receiver.told)
    assert ends.count("2026-11-25T12:03:00.000Z") == 1


async def test_a_resolved_alert_waits_for_a_receiver_that_is_away() -> None:
    """All tries fail, and then some; it is told when it can be."""
    receiver = Receiver([answer({}, 503)] * (2 * MAX_TRIES))
    async with http_server(receiver.serve) as url, telling(url) as webhook:
        webhook.enqueue(RESOLVED)
        await receiver.until(2 * MAX_TRIES + 1)
    assert all([each["endsAt"] for each in told] == ["2026-11-25T12:03:00.000Z"] for told in receiver.told)


@pytest.mark.parametrize("status", [400, 404, 302])
async def test_a_refusal_is_not_argued_with(status: int) -> None:
    """Nor is a redirect followed: the operator named the receiver."""
    receiver = Receiver([answer({}, status, "location: /elsewhere\r\n")])
    with capture_logs() as logs:
        async with http_server(receiver.serve) as url, telling(f"{url}/hook") as webhook:
            webhook.enqueue(RESOLVED)
            await receiver.until(1)
            webhook.enqueue(FIRED)
            await receiver.until(2)
    assert [request.path for request in receiver.requests] == ["/hook", "/hook"]
    assert [each["reason"] for each in logs] == [f"status {status}"]


async def test_no_log_shows_the_url() -> None:
    """It may be the secret itself."""
    receiver = Receiver()

    async def hang_up(request: HttpRequest, _writer: asyncio.StreamWriter) -> bool:
        receiver.note(request)
        return False

    with capture_logs() as logs:
        async with http_server(hang_up) as url:
            secret = url.replace("://", "://user:hunter2@") + "/services/T0/secret"
            async with telling(secret) as webhook:
                webhook.enqueue(RESOLVED)
                await receiver.until(MAX_TRIES + 1)
    assert receiver.requests[0].path == "/services/T0/secret"
    assert logs[0]["reason"] == "RemoteProtocolError"
    assert "secret" not in str(logs)
    assert "hunter2" not in str(logs)


def test_what_waits_is_bounded() -> None:
    """The oldest go, and it is said."""
    webhook = Webhook("http://127.0.0.1:9")
    with capture_logs() as logs:
        for number in range(MAX_WAITING + 3):
            webhook.enqueue(FIRED.model_copy(update={"alert_id": str(number)}))
    assert len(logs) == 3
    assert len(webhook._waiting) == MAX_WAITING
    assert webhook._waiting[-1].alert_id == str(MAX_WAITING + 2)


@pytest.mark.usefixtures("no_authorities_read")
async def test_a_receiver_of_the_named_authority_is_told(certificates: Certificates) -> None:
    """Over TLS, with an authority of the operator's own."""
    receiver = Receiver()
    async with (
        http_server(receiver.serve, over_tls(certificates)) as url,
        telling(url, webhook=of_settings(f"{url}/hook", certificates.ca)) as webhook,
    ):
        webhook.enqueue(FIRED)
        await receiver.until(1)
    assert url.startswith("https:")
    assert receiver.requests[0].path == "/hook"
    assert receiver.told[0][0]["labels"]["alertname"] == "latency_baseline"


@pytest.mark.usefixtures("no_authorities_read")
@pytest.mark.parametrize("named", [True, False])
async def test_a_receiver_of_another_authority_is_told_nothing(
    certificates: Certificates, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be anybody: neither another authority nor the system's have signed for it."""
    receiver, refused = Receiver(), asyncio.Event()
    post = Webhook._post

    async def noted(*arguments: Any) -> bool:
        taken = await post(*arguments)
        refused.set()
        return taken

    monkeypatch.setattr(Webhook, "_post", noted)
    with capture_logs() as logs:
        async with http_server(receiver.serve, over_tls(certificates)) as url:
            webhook = of_settings(url, certificates.other_ca if named else None)
            async with telling(url, webhook=webhook):
                webhook.enqueue(RESOLVED)
                async with asyncio.timeout(DEADLINE_SECONDS):
                    await refused.wait()
    assert receiver.requests == []
    assert logs[0]["event"] == "alerts not delivered to the webhook yet"
    assert logs[0]["reason"] == "ConnectError"


@pytest.mark.usefixtures("no_authorities_read")
async def test_authorities_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    """The monitor stops, and says which file."""
    missing = tmp_path / "missing.pem"
    with pytest.raises(SetupError, match=str(missing)):
        await of_settings("https://127.0.0.1:9", missing).run_delivery_loop(tuple)

"""streams/tracing/provider.py: the tracer from the settings, their errors, and no import while tracing is off."""

import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import SetupError
from streams.config.identity import Identity
from streams.config.settings import Settings
from streams.config.sources import combine
from streams.tracing.provider import read_headers, tracing

HERE = Identity("w", "boot")
ENDPOINT = "http://127.0.0.1:4318"


def settings(**fields: str) -> Settings:
    flags = {f"HEADRACE_OTLP_{name.upper()}": value for name, value in fields.items()}
    return combine(flags=flags, environment={}, env_file={}).settings


async def test_off_is_nothing() -> None:
    """Also with headers that are set already."""
    async with tracing(settings(headers="authorization=x"), HERE) as spans:
        assert spans is None


def test_off_imports_nothing() -> None:
    """All of a worker is loaded, and tracing was entered, in a process where OpenTelemetry cannot be imported."""
    program = """
import asyncio, sys
sys.modules["opentelemetry"] = None
import streams.cli.main, streams.worker
from streams.config.identity import Identity
from streams.config.settings import Settings
from streams.tracing.provider import tracing

async def enter():
    async with tracing(Settings(), Identity("w", "b")):
        pass

asyncio.run(enter())
print([name for name in sys.modules if name.startswith("streams.tracing.")])
"""
    root = Path(__file__).parents[4]
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "['streams.tracing.provider']"


async def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker does not start without the traces that its settings ask for."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SetupError, match=r"pip install 'headrace\[otel\]'"):
        async with tracing(settings(endpoint=ENDPOINT), HERE):
            pass


def test_headers_are_read() -> None:
    """In the format of OTEL_EXPORTER_OTLP_HEADERS."""
    assert read_headers("") == {}
    assert read_headers("Authorization=Bearer%20a%3Db%2Cc, x-scope = t=1") == {
        "authorization": "Bearer a=b,c",
        "x-scope": "t=1",
    }


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("hunter2", 1),
        ("a=1,hunter2", 2),
        ("a=1,", 2),
        ("na me=hunter2", 1),
        ("a=hunter2%0D%0Ab:1", 1),
        ("=hunter2", 1),
        ("a=hunter2%C3%A9", 1),
    ],
)
async def test_bad_headers_stop_the_worker_and_are_not_shown(text: str, entry: int) -> None:
    """They are secrets, even when they are wrong."""
    with pytest.raises(SetupError, match=f"entry {entry}: write") as refused:
        async with tracing(settings(endpoint=ENDPOINT, headers=text), HERE):
            pass
    assert "hunter2" not in str(refused.value)


async def test_authorities_that_cannot_be_read_stop_the_worker(tmp_path: Path) -> None:
    """With the setting's name."""
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(SetupError, match=f"HEADRACE_OTLP_SSL_CAFILE={missing}: No such file"):
        async with tracing(settings(endpoint="https://127.0.0.1:4318", ssl_cafile=missing), HERE):
            pass


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:4318",
        "grpc://h:4317",
        "http://u:hunter2@h",
        "http://h?token=hunter2",
        "http://h:99999",
        "http://h:hunter2",
    ],
)
def test_an_endpoint_is_an_address_and_nothing_more(url: str) -> None:
    """Secrets belong in the headers."""
    with pytest.raises(SetupError, match="HEADRACE_OTLP_ENDPOINT") as refused:
        settings(endpoint=url)
    assert "hunter2" not in str(refused.value)

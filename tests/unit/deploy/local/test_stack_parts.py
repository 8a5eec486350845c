"""The parts of the local stack that need no server."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local import java
from deploy.local.kafka import MAX_MESSAGE_BYTES, server_properties
from deploy.local.process import ChildProcess, run
from deploy.local.service import free_ports
from schemas.errors import SetupError
from streams.cli.up import env_text
from streams.config.settings import Settings
from streams.config.sources import parse_env_file
from streams.kafka.topics import plan_topics


@pytest.mark.parametrize(
    ("output", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "25" 2025-09-16', 25),
        ('openjdk version "24-ea" 2025-03-18', 24),
        ("Unable to locate a Java Runtime.", None),
    ],
)
def test_java_s_major_version_is_read(output: str, major: int | None) -> None:
    """Both generations of version numbers, and early access; no version is no Java."""
    assert java.java_major(output) == major


def test_kafka_listens_to_this_machine_only() -> None:
    """Every listener has an address of the loopback, and nothing advertises another."""
    lines = server_properties("data", 1, 2).splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    assert settings["listeners"] == "BROKER://127.0.0.1:1,CONTROLLER://127.0.0.1:2"
    assert "advertised.listeners" not in settings


def test_free_ports_are_different() -> None:
    """Two ports of one server never collide with each other."""
    ports = free_ports(50)
    assert len(set(ports)) == 50


@given(st.integers(1, 1000), st.integers(1, 1_000_000))
def test_records_that_must_be_refused_still_fit_the_topics(partitions: int, max_record_bytes: int) -> None:
    """A record over the limit reaches us, and its dead letter has room for as much again in headers."""
    settings = Settings(max_record_bytes=max_record_bytes)
    plans = {plan.name: plan for plan in plan_topics(settings, partitions)}
    requests, dead_letters = (
        int(plans[name].config["max.message.bytes"])
        for name in (settings.topic_requests, settings.topic_dead_letters)
    )
    assert max_record_bytes < requests < dead_letters
    assert plans[settings.topic_requests].partitions == plans[settings.topic_responses].partitions


def test_default_topics_fit_the_local_broker() -> None:
    """The broker's own limit is above each topic's."""
    limits = [int(plan.config.get("max.message.bytes", 0)) for plan in plan_topics(Settings(), 4)]
    assert 0 < max(limits) < MAX_MESSAGE_BYTES


def test_the_env_file_has_what_differs_and_no_more() -> None:
    """Addresses always, topics when they were renamed; a reader of env files gets them back."""
    addresses = {"kafka_bootstrap": "127.0.0.1:1", "postgres_dsn": "postgresql://u:p=w@127.0.0.1:2/d"}
    text = env_text(addresses, Settings(topic_alerts="alarms", log_level="debug"))
    assert parse_env_file(text, "env") == {
        "HEADRACE_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "HEADRACE_POSTGRES_DSN": "postgresql://u:p=w@127.0.0.1:2/d",
        "HEADRACE_TOPIC_ALERTS": "alarms",
    }


@pytest.fixture
def fake_maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a `mvn` that stands first on PATH, and an empty cache folder."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return binaries / "mvn"


def write_script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_jars_are_fetched_once_by_whoever_comes_first(fake_maven: Path, tmp_path: Path) -> None:
    """Of four at once one downloads, the others wait for it, and all get the whole folder."""
    write_script(
        fake_maven,
        f'echo run >>"{tmp_path}/runs"\n'
        'for argument; do case "$argument" in -DoutputDirectory=*) folder="${argument#*=}";; esac; done\n'
        'mkdir "$folder" && touch "$folder/kafka.jar"',
    )
    told: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: java.fetch_jars(told.append), range(4)))
    assert set(folders) == {tmp_path / "cache" / "headrace" / f"kafka-{java.kafka_version()}"}
    assert [jar.name for jar in folders[0].iterdir()] == ["kafka.jar"]
    assert (tmp_path / "runs").read_text() == "run\n"
    assert len(told) == 1


def test_a_failed_download_is_shown_and_leaves_nothing(fake_maven: Path, tmp_path: Path) -> None:
    """Maven's own words are in the error, and the next try starts anew."""
    write_script(fake_maven, 'echo "[ERROR] Could not transfer artifact"\nexit 1')
    with pytest.raises(SetupError, match=r"\[ERROR\] Could not transfer artifact"):
        java.fetch_jars(lambda _: None)
    assert [path.suffix for path in (tmp_path / "cache" / "headrace").iterdir()] == [".lock"]


def test_a_program_that_is_not_there_is_a_setup_error(tmp_path: Path) -> None:
    """The error has the launcher's reason, not a traceback of ours."""
    with pytest.raises(SetupError, match="No such file or directory"):
        run("nothing", [str(tmp_path / "nothing")], log=tmp_path / "log", timeout_seconds=10)


def test_a_program_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    """The error names the limit; a grandchild that ignores SIGTERM is gone too."""
    command = ["/bin/sh", "-c", "trap '' TERM; sleep 300 & wait"]
    with pytest.raises(SetupError, match=r"not done after 0.2 s"):
        run("sleeper", command, log=tmp_path / "log", timeout_seconds=0.2)


def test_a_line_that_never_comes_ends_the_wait(tmp_path: Path) -> None:
    """A server that hangs while it starts is told with the end of its log."""
    child = ChildProcess("sleeper", ["/bin/sh", "-c", "echo hello; sleep 300"], log=tmp_path / "log")
    try:
        child.wait_for_line(b"hello", 10)
        with pytest.raises(SetupError, match=r"not ready after 0.1 s(.|\n)*hello"):
            child.wait_for_line(b"ready", 0.1)
    finally:
        child.kill()
        child.close()
    assert not child.running

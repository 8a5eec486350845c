"""docker-compose.yml beside what the rest of the project says; no engine is needed to read it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.java import kafka_version
from deploy.local.kafka import MAX_MESSAGE_BYTES
from streams.settings_sources import VARIABLES

FILE = Path(__file__).parents[2] / "docker-compose.yml"
LONG_RUNNING = ["kafka", "postgres", "redis"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return document


def test_both_generations_of_compose_read_it(compose: dict[str, Any]) -> None:
    """Older releases refuse a top-level `name`, newer ones warn of `version`."""
    assert set(compose) == {"x-headrace", "services", "volumes"}


def test_ports_are_published_to_this_machine_only(compose: dict[str, Any]) -> None:
    """Nothing here asks for a password worth the name, so nothing is open to the network."""
    ports = {name: compose["services"][name]["ports"] for name in LONG_RUNNING}
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)
    assert all(len(each) == 1 for each in ports.values())


def test_the_kafka_of_both_stacks_is_the_same(compose: dict[str, Any]) -> None:
    """`headrace up` and the containers run one version with one record limit."""
    kafka = compose["services"]["kafka"]
    assert kafka["image"] == f"${{KAFKA_IMAGE:-apache/kafka:{kafka_version()}}}"
    assert kafka["environment"]["KAFKA_MESSAGE_MAX_BYTES"] == MAX_MESSAGE_BYTES
    assert kafka["environment"]["KAFKA_REPLICA_FETCH_MAX_BYTES"] == MAX_MESSAGE_BYTES


def test_a_worker_starts_when_all_it_needs_is_there(compose: dict[str, Any]) -> None:
    """Services are healthy before the setup runs, and the setup is done before a worker runs."""
    services = compose["services"]
    assert all("healthcheck" in services[name] for name in LONG_RUNNING)
    conditions = {
        name: {need: how["condition"] for need, how in services[name]["depends_on"].items()}
        for name in ("setup", "worker")
    }
    assert conditions == {
        "setup": {"kafka": "service_healthy", "postgres": "service_healthy"},
        "worker": {"setup": "service_completed_successfully", "redis": "service_healthy"},
    }


def test_its_settings_exist_and_name_its_services(compose: dict[str, Any]) -> None:
    """Each HEADRACE_ variable is a setting, and the host in it is a service of the file."""
    environment = compose["x-headrace"]["environment"]
    assert set(environment) <= set(VARIABLES)
    hosts = {re.split(r"[@/]+", value)[-2 if "/" in value else 0] for value in environment.values()}
    assert {host.split(":")[0] for host in hosts} == set(LONG_RUNNING)


def test_named_volumes_are_declared_and_used(compose: dict[str, Any]) -> None:
    """What must survive `docker compose down` lies in a declared volume."""
    used = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
    }
    assert used == set(compose["volumes"]) == {"kafka-data", "postgres-data"}

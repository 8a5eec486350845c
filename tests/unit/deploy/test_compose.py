"""docker-compose.yml beside what the rest of the project says; no engine is needed to read it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.java import kafka_version
from deploy.local.kafka import MAX_MESSAGE_BYTES
from deploy.local.redis import MAX_MEMORY
from streams.config.settings import Settings
from streams.config.sources import VARIABLES
from streams.roles import ROLES

FILE = Path(__file__).parents[3] / "docker-compose.yml"
SERVERS = ["kafka", "postgres", "redis"]
WORKERS = ["predict-1", "predict-2", "control", "monitor", "log"]
DASHBOARDS = ["prometheus", "grafana"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return document


def test_both_generations_of_compose_read_it(compose: dict[str, Any]) -> None:
    """Older releases refuse a top-level `name`, newer ones warn of `version`."""
    assert set(compose) == {"x-environment", "x-headrace", "services", "volumes"}


def test_ports_are_published_to_this_machine_only(compose: dict[str, Any]) -> None:
    """Nothing here asks for a password worth the name, so nothing is open to the network."""
    published = {
        name: service["ports"] for name, service in compose["services"].items() if "ports" in service
    }
    assert set(published) == {*SERVERS, *DASHBOARDS, "monitor"}
    assert all(port.startswith("127.0.0.1:") for each in published.values() for port in each)
    assert all(len(each) == 1 for each in published.values())


def test_the_kafka_of_both_stacks_is_the_same(compose: dict[str, Any]) -> None:
    """`headrace up` and the containers run one version with one record limit."""
    kafka = compose["services"]["kafka"]
    assert kafka["image"] == f"${{KAFKA_IMAGE:-apache/kafka:{kafka_version()}}}"
    assert kafka["environment"]["KAFKA_MESSAGE_MAX_BYTES"] == MAX_MESSAGE_BYTES
    assert kafka["environment"]["KAFKA_REPLICA_FETCH_MAX_BYTES"] == MAX_MESSAGE_BYTES


def test_redis_is_a_cache_of_bounded_size(compose: dict[str, Any]) -> None:
    """When it is full, old predictions make room; so it is in both stacks."""
    command = compose["services"]["redis"]["command"]
    assert command[command.index("--maxmemory") + 1] == f"${{REDIS_MAXMEMORY:-{MAX_MEMORY}}}"
    assert command[command.index("--maxmemory-policy") + 1] == "allkeys-lru"


def test_each_starts_when_all_it_needs_is_there(compose: dict[str, Any]) -> None:
    """Servers are healthy before the setup runs, the setup is done before a worker runs, and workers stop first."""
    services = compose["services"]
    assert set(services) == {*SERVERS, "setup", *WORKERS, *DASHBOARDS}
    assert all("healthcheck" in services[name] for name in SERVERS + DASHBOARDS)
    # Workers have the health check of their image.
    assert "HEALTHCHECK" in (FILE.parent / "deploy" / "Dockerfile").read_text()
    assert not any("healthcheck" in services[name] for name in WORKERS)
    conditions = {
        name: {need: how["condition"] for need, how in services[name]["depends_on"].items()}
        for name in ("setup", *WORKERS, *DASHBOARDS)
    }
    worker = {"setup": "service_completed_successfully", **dict.fromkeys(SERVERS, "service_healthy")}
    assert conditions == {
        "setup": {"kafka": "service_healthy", "postgres": "service_healthy"},
        **dict.fromkeys(WORKERS, worker),
        "prometheus": {"monitor": "service_healthy"},
        "grafana": {"prometheus": "service_healthy"},
    }


def test_the_workers_have_every_role_and_a_name_of_their_own(compose: dict[str, Any]) -> None:
    """Two predict; nobody loses sight of who is who when a container is made anew."""
    services = compose["services"]
    roles = [services[name]["command"][-1] for name in WORKERS]
    assert sorted(roles) == sorted([*ROLES, "predict"])
    assert all(services[name]["environment"]["HEADRACE_WORKER_NAME"] == name for name in WORKERS)


def test_workers_can_write_nothing_and_have_no_rights(compose: dict[str, Any]) -> None:
    """A read-only file system, no capabilities, and longer to end than a worker takes."""
    for name in WORKERS:
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        grace_seconds = float(service["stop_grace_period"].removesuffix("s"))
        assert grace_seconds > Settings().shutdown_seconds


def test_its_settings_exist_and_name_its_services(compose: dict[str, Any]) -> None:
    """Each HEADRACE_ variable is a setting, and the host in it is a service of the file."""
    environment = compose["x-environment"]
    assert set(environment) <= set(VARIABLES)
    addresses = [environment[f"HEADRACE_{name}"] for name in ("KAFKA_BOOTSTRAP", "POSTGRES_DSN", "REDIS_URL")]
    hosts = [re.split(r"[@/]+", address)[-2 if "/" in address else 0] for address in addresses]
    assert [host.split(":")[0] for host in hosts] == SERVERS


def test_prometheus_scrapes_every_worker() -> None:
    """By the names that they have among each other."""
    (targets,) = yaml.safe_load((FILE.parent / "deploy/compose/targets/headrace.yml").read_text())
    assert targets["targets"] == [f"{name}:8080" for name in WORKERS]
    assert "HEADRACE_HTTP_PORT=8080" in (FILE.parent / "deploy" / "Dockerfile").read_text()


def test_what_is_mounted_is_there(compose: dict[str, Any]) -> None:
    """Docker would make an empty folder of a file that is not there."""
    volumes = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    mounted = {volume.split(":")[0] for volume in volumes if volume.startswith("./")}
    assert mounted
    assert [path for path in mounted if not (FILE.parent / path).exists()] == []


def test_named_volumes_are_declared_and_used(compose: dict[str, Any]) -> None:
    """What must survive `docker compose down` lies in a declared volume."""
    used = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if not volume.startswith((".", "$"))
    }
    assert used == set(compose["volumes"]) >= {"kafka-data", "postgres-data"}

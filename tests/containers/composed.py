"""The system of docker-compose.yml, under a name and on ports of its own, to use and harm from outside."""

import os
import sys
import time
import uuid
from pathlib import Path

from deploy.local.service import HOST, free_ports
from streams.config.settings import Settings
from tests.containers.docker import compose_command, docker, inspect, run

FILE = Path(__file__).parents[2] / "docker-compose.yml"
IMAGE = "headrace:test"
WORKERS = ("predict-1", "predict-2", "control", "monitor", "log")
PUBLISHED = ("KAFKA_PORT", "POSTGRES_PORT", "REDIS_PORT", "HEADRACE_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
HEALTHY_SECONDS = 120.0
_POLL_SECONDS = 0.2


class Composed:
    """Containers of a project; `settings` are those of a client on this machine."""

    def __init__(self, models: Path) -> None:
        self.models = models
        self.project = f"headrace-test-{uuid.uuid4().hex[:8]}"
        self.ports = dict(zip(PUBLISHED, free_ports(len(PUBLISHED)), strict=True))
        self.environment = {name: str(port) for name, port in self.ports.items()} | {
            "HEADRACE_IMAGE": IMAGE,
            "HEADRACE_MODELS": str(models),
            # The builder that comes with every engine.
            "DOCKER_BUILDKIT": "0",
        }
        self.settings = Settings.model_validate(
            {
                "kafka_bootstrap": f"{HOST}:{self.ports['KAFKA_PORT']}",
                "postgres_dsn": f"postgresql://headrace:headrace@{HOST}:{self.ports['POSTGRES_PORT']}/headrace",
                "redis_url": f"redis://{HOST}:{self.ports['REDIS_PORT']}/0",
            }
        )

    def compose(self, *arguments: str) -> str:
        """Run Compose on this project; what it printed."""
        files = ["-f", str(FILE), "--project-name", self.project]
        return run([*compose_command(), *files, *arguments], {**os.environ, **self.environment})

    def up(self, *arguments: str) -> None:
        """Start what does not run, and wait until all is healthy."""
        self.compose("up", "--detach", *arguments)
        self.healthy(*WORKERS)

    def healthy(self, *services: str) -> None:
        """Wait until these say that they are."""
        deadline = time.monotonic() + HEALTHY_SECONDS
        for service in services:
            while (state := self.health(service)) != "healthy":
                assert time.monotonic() < deadline, f"{service} is {state}:\n{self.logs(service)}"
                time.sleep(_POLL_SECONDS)

    def health(self, service: str) -> str:
        return str(inspect(self.container(service))["State"]["Health"]["Status"])

    def container(self, service: str) -> str:
        """The container's id."""
        of_project = f"label=com.docker.compose.project={self.project}"
        of_service = f"label=com.docker.compose.service={service}"
        return docker("ps", "--all", "--quiet", "--filter", of_project, "--filter", of_service).strip()

    def logs(self, service: str) -> str:
        return self.compose("logs", "--no-color", "--tail=60", service)

    def remove(self) -> None:
        """Take all down with its data; logs are printed first, for a test that fails."""
        sys.stdout.write(self.compose("logs", "--no-color", "--tail=60"))
        self.compose("--profile", "dashboards", "down", "--volumes", "--timeout", "15")
        # Images that later builds have taken the place of; the last ones are the builder's cache.
        superseded = ("label=org.opencontainers.image.title=Headrace", "until=3h")
        docker("image", "prune", "--force", *(f"--filter={each}" for each in superseded))

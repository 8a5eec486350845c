"""All settings of a process, in one flat namespace: `HEADRACE_TOPIC_REQUESTS` is `settings.topic_requests`.

Each section is a class with its validators, in the file that its import names. Secrets are `SecretStr`,
which every output masks. An empty value means unset. TLS certificates are always verified; the sections refuse
values that would switch that off.
"""

from pydantic import ConfigDict

from streams.config.kafka_settings import ConsumerGroupSettings, KafkaSettings, TopicSettings
from streams.config.model_settings import ArtifactSettings, BackendSettings
from streams.config.observability_settings import (
    AlertSettings,
    MetricsSettings,
    PredictionLogSettings,
    TracingSettings,
)
from streams.config.process_settings import HttpSettings, LogSettings, WorkerSettings
from streams.config.setting_types import Section
from streams.config.storage_settings import PostgresSettings, RedisSettings

ENV_PREFIX = "HEADRACE_"


class Settings(
    KafkaSettings,
    TopicSettings,
    ConsumerGroupSettings,
    PostgresSettings,
    RedisSettings,
    WorkerSettings,
    HttpSettings,
    LogSettings,
    BackendSettings,
    ArtifactSettings,
    MetricsSettings,
    AlertSettings,
    PredictionLogSettings,
    TracingSettings,
):
    """What a Headrace process needs to know. It reads nothing: `sources.load_settings` collects the values."""

    model_config = ConfigDict(defer_build=False)


SECTIONS: tuple[type[Section], ...] = tuple(base for base in Settings.__bases__ if issubclass(base, Section))
"""The sections in the order of `headrace config` and of docs/reference/settings.md."""


def variable(name: str) -> str:
    """PURE. The environment variable of a setting."""
    return ENV_PREFIX + name.upper()

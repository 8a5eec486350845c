"""All settings, with one precedence: flags, then environment, then env file, then defaults.

Every name is an environment variable with the prefix `HEADRACE_`. Secrets are `SecretStr`: they are
masked wherever settings are shown.
"""

from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """What a Headrace process needs to know."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", extra="ignore", frozen=True)

    # Kafka
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="host:port[,host:port]")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_cafile: str | None = Field(None, description="CA bundle; the system's when unset")
    kafka_ssl_certfile: str | None = None
    kafka_ssl_keyfile: str | None = None
    kafka_ssl_keyfile_password: SecretStr | None = None

    # PostgreSQL: the DSN takes sslmode, sslrootcert, sslcert, sslkey as libpq does
    postgres_dsn: SecretStr = SecretStr("postgresql://127.0.0.1:5432/headrace")

    # Redis: rediss:// for TLS, user:password@ for ACL
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_ssl_cafile: str | None = Field(None, description="CA bundle for rediss://")
    redis_ssl_certfile: str | None = None
    redis_ssl_keyfile: str | None = None
    redis_timeout_seconds: Seconds = 0.5

    # Topics
    topic_requests: str = "predict-requests"
    topic_responses: str = "predict-responses"
    topic_dead_letters: str = "predict-dead-letters"
    topic_outcomes: str = "predict-outcomes"
    topic_metrics: str = "predict-metrics"
    topic_alerts: str = "predict-alerts"
    topic_promotions: str = "model-promotions"
    topic_promotion_results: str = "model-promotion-results"

    # Worker
    group_id: str = "headrace-predict"
    worker_name: str | None = Field(None, description="unique and stable; host name and pid when unset")
    max_record_bytes: Positive = 1024 * 1024
    slice_max_records: Positive = Field(1000, description="records that are worked on as one")
    slices_in_flight: Positive = Field(8, description="slices a worker works on at once")
    fetch_max_bytes: Positive = Field(1024 * 1024, description="bytes fetched from a partition at once")
    registry_poll_seconds: Seconds = Field(1.0, description="how often the registry's epoch is read")
    stale_after_seconds: Seconds = Field(5.0, description="answers say stale after so long without")
    shutdown_seconds: Seconds = Field(9.0, description="SIGTERM drains for so long, then the process ends")
    watchdog_seconds: Seconds = Field(60.0, description="the process ends after so long without progress")
    metrics_interval_seconds: Seconds = 1.0
    artifact_dir: str | None = Field(
        None, description="where fetched models are kept; a cache folder when unset"
    )
    onnx_threads: Positive = Field(1, description="threads of one ONNX Runtime session")
    backend_hosts: str = Field(
        "", description="host[:port],… that versions may name as endpoint; empty = loopback"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

"""All settings, with one precedence: flags, then environment, then env file, then defaults.

Every name is an environment variable with the prefix `HEADRACE_`. Secrets are `SecretStr`: they are
masked wherever settings are shown. An empty value means unset.
"""

from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]

ENV_PREFIX = "HEADRACE_"
# Shorter ones can be guessed by whoever has the hashes.
HASH_KEY_CHARACTERS = 32
DASHBOARD_TOKEN_CHARACTERS = 16


class Settings(BaseModel):
    """What a Headrace process needs to know.

    It reads nothing by itself: `settings_sources.load_settings` collects the values. TLS is always
    verified; what would switch that off is refused here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

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

    postgres_dsn: SecretStr = Field(
        SecretStr("postgresql://127.0.0.1:5432/headrace"),
        description="TLS by ?sslmode=verify-full&sslrootcert=FILE (and sslcert, sslkey)",
    )

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="rediss:// for TLS, USER:PASSWORD@ for an ACL user",
    )
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
    control_group_id: str = "headrace-control"
    monitor_group_id: str = "headrace-monitor"
    log_group_id: str = "headrace-log"
    worker_name: str | None = Field(None, description="unique and stable; host name and pid when unset")
    max_record_bytes: Positive = 1024 * 1024
    slice_max_records: Positive = Field(2000, description="records that are worked on as one")
    slices_in_flight: Positive = Field(
        8, description="whole slices, or as much in smaller ones, worked on at once"
    )
    fetch_max_bytes: Positive = Field(1024 * 1024, description="bytes fetched from a partition at once")
    registry_poll_seconds: Seconds = Field(1.0, description="how often the registry's epoch is read")
    stale_after_seconds: Seconds = Field(5.0, description="answers say stale after so long without")
    shutdown_seconds: Seconds = Field(9.0, description="SIGTERM drains for so long, then the process ends")
    watchdog_seconds: Seconds = Field(60.0, description="the process ends after so long without progress")
    metrics_interval_seconds: Seconds = 1.0
    onnx_threads: Positive = Field(1, description="threads of one ONNX Runtime session")
    backend_hosts: str = Field(
        "", description="host[:port],… that versions may name as endpoint; empty = loopback"
    )
    backend_networks: str = Field(
        "", description="10.0.0.0/8,… not public, in which those hosts may be all the same"
    )
    backend_tokens: SecretStr = Field(
        SecretStr(""), description="host[:port]=TOKEN,… for model servers, sent as bearer tokens"
    )
    backend_ssl_cafile: str | None = Field(None, description="CA bundle; the system's when unset")
    http_host: str = Field("127.0.0.1", description="where HTTP is served")
    http_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None, description="0 = a free one, which the log tells; no HTTP when unset"
    )
    http_socket: str | None = Field(None, description="a Unix socket's path, to serve HTTP there instead")
    dashboard_token: SecretStr | None = Field(
        None, description="16 characters or more; with it the live page can promote and roll back"
    )
    dashboard_hosts: str = Field(
        "", description="name,… by which the live page may be asked for, beside where it is served"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

    # Tracing
    otlp_endpoint: str | None = Field(
        None, description="http(s)://host:port of a receiver of OTLP/HTTP; no traces when unset"
    )
    otlp_headers: SecretStr = Field(SecretStr(""), description="NAME=VALUE,…, values percent-encoded")
    otlp_ssl_cafile: str | None = Field(None, description="CA bundle; the system's when unset")

    # Metrics
    metrics_keep_10s_hours: Positive = Field(6, description="of windows of 10 s")
    metrics_keep_1m_days: Positive = Field(7, description="of windows of 1 min")
    metrics_keep_1h_days: Positive = Field(400, description="of windows of 1 h")

    # Prediction log
    log_keep_days: Positive = Field(30, description="days before today")
    log_user_ids: Literal["plain", "hashed"] = Field(
        "plain", description="hashed: HMAC-SHA-256 by LOG_HASH_KEY"
    )
    log_hash_key: SecretStr | None = Field(
        None, description="32 characters or more, as of openssl rand -hex 32"
    )
    log_predictions: bool = Field(False, description="keep the predictions too")

    # Alerts
    alert_webhook_url: SecretStr | None = Field(
        None, description="http(s)://… that takes alerts as Alertmanager's /api/v2/alerts does"
    )
    alert_webhook_ssl_cafile: str | None = Field(None, description="CA bundle; the system's when unset")

    # Model files
    artifact_dir: str | None = Field(None, description="of fetched ones; a cache folder when unset")
    artifact_max_bytes: Positive = Field(4 * 1024**3, description="a larger one is refused")
    artifact_cache_bytes: Positive = Field(20 * 1024**3, description="beyond it the longest unused ones go")
    artifact_hosts: str = Field("", description="host[:port],… allowed in http(s) URIs; empty = loopback")
    artifact_tokens: SecretStr = Field(SecretStr(""), description="host[:port]=TOKEN,… sent as bearer tokens")
    s3_endpoint: str | None = Field(None, description="http(s)://host[:port]; Amazon S3 when unset")
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = Field(None, description="requests are not signed when unset")
    s3_secret_access_key: SecretStr | None = None
    mlflow_url: str | None = Field(None, description="http(s)://host[:port][/path] of a tracking server")
    mlflow_token: SecretStr | None = Field(None, description="bearer token, instead of name and password")
    mlflow_username: str | None = None
    mlflow_password: SecretStr | None = None

    @field_validator("postgres_dsn")
    @classmethod
    def _postgres_tls_is_verified_or_off(cls, dsn: SecretStr) -> SecretStr:
        parts = _url(dsn, "postgresql", "postgres")
        modes = parse_qs(parts.query).get("sslmode", [])
        if not modes:
            # The driver would try TLS without looking at the certificate: plain, unless asked for TLS.
            joint = "&" if parts.query else "?"
            return SecretStr(f"{dsn.get_secret_value()}{joint}sslmode=disable")
        if modes[-1] not in ("disable", "verify-ca", "verify-full"):
            raise ValueError(f"sslmode={modes[-1]} checks no certificate; use verify-full (or disable)")
        return dsn

    @field_validator("redis_url")
    @classmethod
    def _redis_tls_is_verified(cls, url: SecretStr) -> SecretStr:
        options = parse_qs(_url(url, "redis", "rediss", "unix").query)
        if "ssl_cert_reqs" in options or "ssl_check_hostname" in options:
            raise ValueError("certificates are always checked; remove ssl_cert_reqs and ssl_check_hostname")
        return url

    @field_validator("alert_webhook_url")
    @classmethod
    def _webhook_is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not _url(url, "http", "https").hostname:
            raise ValueError("write http(s)://HOST[:PORT]/PATH")
        return url

    @field_validator("dashboard_token")
    @classmethod
    def _token_is_hard_to_guess(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None:
            text = token.get_secret_value()
            if len(text) < DASHBOARD_TOKEN_CHARACTERS or not text.isascii() or not text.isprintable():
                raise ValueError(
                    f"write {DASHBOARD_TOKEN_CHARACTERS} characters or more, as of openssl rand -hex 16"
                )
        return token

    @field_validator("s3_endpoint", "mlflow_url", "otlp_endpoint")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None:
            parts = _url(SecretStr(url), "http", "https")
            if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
                raise ValueError("write http(s)://HOST[:PORT], without a user and a query")
            try:
                _ = parts.port
            except ValueError:
                raise ValueError("the port must be a number up to 65535") from None
        return url

    @model_validator(mode="after")
    def _polls_keep_answers_fresh(self) -> Self:
        if self.registry_poll_seconds >= self.stale_after_seconds:
            raise ValueError(
                f"HEADRACE_REGISTRY_POLL_SECONDS={self.registry_poll_seconds:g} must be less than "
                f"HEADRACE_STALE_AFTER_SECONDS={self.stale_after_seconds:g}, or all answers say stale"
            )
        return self

    @model_validator(mode="after")
    def _hashed_users_have_a_key(self) -> Self:
        key = "" if self.log_hash_key is None else self.log_hash_key.get_secret_value()
        if self.log_user_ids == "hashed" and len(key) < HASH_KEY_CHARACTERS:
            raise ValueError(
                f"HEADRACE_LOG_USER_IDS=hashed needs HEADRACE_LOG_HASH_KEY, {HASH_KEY_CHARACTERS} characters or more"
            )
        return self

    @model_validator(mode="after")
    def _security_is_whole(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                f"HEADRACE_KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs "
                "HEADRACE_KAFKA_SASL_USERNAME and HEADRACE_KAFKA_SASL_PASSWORD"
            )
        if self.kafka_ssl_keyfile and not self.kafka_ssl_certfile:
            raise ValueError("HEADRACE_KAFKA_SSL_KEYFILE needs HEADRACE_KAFKA_SSL_CERTFILE")
        if self.redis_ssl_keyfile and not self.redis_ssl_certfile:
            raise ValueError("HEADRACE_REDIS_SSL_KEYFILE needs HEADRACE_REDIS_SSL_CERTFILE")
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("HEADRACE_S3_ACCESS_KEY_ID and HEADRACE_S3_SECRET_ACCESS_KEY go together")
        if (self.mlflow_username is None) != (self.mlflow_password is None):
            raise ValueError("HEADRACE_MLFLOW_USERNAME and HEADRACE_MLFLOW_PASSWORD go together")
        files = (self.redis_ssl_cafile, self.redis_ssl_certfile)
        if any(files) and not self.redis_url.get_secret_value().startswith("rediss://"):
            raise ValueError("HEADRACE_REDIS_SSL_… needs a HEADRACE_REDIS_URL that begins with rediss://")
        return self


def _url(secret: SecretStr, *schemes: str) -> SplitResult:
    """Split a URL that may hold a password; no message quotes any of it."""
    try:
        parts = urlsplit(secret.get_secret_value())
    except ValueError:
        raise ValueError("not a URL; write SCHEME://HOST:PORT/NAME") from None
    if parts.scheme not in schemes:
        raise ValueError(f"the URL must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return parts


def listed(setting: str) -> tuple[str, ...]:
    """PURE. The entries of a setting that is a list with commas."""
    return tuple(entry.strip() for entry in setting.split(",") if entry.strip())

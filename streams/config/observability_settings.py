"""Settings of traces, stored metrics, alerts and the prediction log."""

from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from streams.config.setting_types import Days, Hours, Section, check_base_url, split_url

# A shorter key could be found from the hashes by trial.
HASH_KEY_CHARACTERS = 32


class TracingSettings(Section):
    title: ClassVar[str] = "Tracing"

    otlp_endpoint: str | None = Field(
        None, description="Receiver of spans by OTLP/HTTP: http(s)://host:port. Unset: no traces."
    )
    otlp_headers: SecretStr = Field(
        SecretStr(""),
        description="Headers of each export, NAME=VALUE,… with percent-encoded values.",
    )
    otlp_ssl_cafile: str | None = Field(
        None,
        description="PEM file of the authorities that sign the receiver's certificate; unset: the system's.",
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _receiver_is_an_address(cls, url: str | None) -> str | None:
        return check_base_url(url)


class MetricsSettings(Section):
    title: ClassVar[str] = "Stored metrics"

    metrics_keep_10s_hours: Hours = Field(6, description="Retention of windows of 10 seconds.")
    metrics_keep_1m_days: Days = Field(7, description="Retention of windows of 1 minute.")
    metrics_keep_1h_days: Days = Field(400, description="Retention of windows of 1 hour.")


class AlertSettings(Section):
    title: ClassVar[str] = "Alerts"

    alert_webhook_url: SecretStr | None = Field(
        None,
        description="Receiver of alerts with the API of Alertmanager's /api/v2/alerts. Unset: alerts go to Kafka "
        "only.",
    )
    alert_webhook_ssl_cafile: str | None = Field(
        None,
        description="PEM file of the authorities that sign the receiver's certificate; unset: the system's.",
    )

    @field_validator("alert_webhook_url")
    @classmethod
    def _webhook_is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not split_url(url, "http", "https").hostname:
            raise ValueError("write http(s)://HOST[:PORT]/PATH")
        return url


class PredictionLogSettings(Section):
    title: ClassVar[str] = "Prediction log"

    prediction_log_keep_days: Days = Field(
        30, description="How long logged predictions are kept, today not counted."
    )
    prediction_log_user_ids: Literal["plain", "hashed"] = Field(
        "plain", description="Form of the user ids; hashed: HMAC-SHA-256 with PREDICTION_LOG_HASH_KEY."
    )
    prediction_log_hash_key: SecretStr | None = Field(
        None, description="Key of hashed user ids, 32 characters or more, as `openssl rand -hex 32` prints."
    )
    prediction_log_keeps_predictions: bool = Field(
        False, description="Whether the predictions themselves are logged."
    )

    @model_validator(mode="after")
    def _hashed_users_have_a_key(self) -> Self:
        key = "" if self.prediction_log_hash_key is None else self.prediction_log_hash_key.get_secret_value()
        if self.prediction_log_user_ids == "hashed" and len(key) < HASH_KEY_CHARACTERS:
            raise ValueError(
                "HEADRACE_PREDICTION_LOG_USER_IDS=hashed needs HEADRACE_PREDICTION_LOG_HASH_KEY, "
                f"{HASH_KEY_CHARACTERS} characters or more"
            )
        return self

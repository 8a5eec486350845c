"""Settings of Kafka: the connection, the topics and the consumer groups."""

from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from streams.config.setting_types import Bytes, Section


class KafkaSettings(Section):
    title: ClassVar[str] = "Kafka"

    kafka_bootstrap: str = Field(
        "127.0.0.1:9092", description="Brokers for the first connection: host:port[,host:port]."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Protocol of the brokers: SSL encrypts, SASL authenticates."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism; used when the protocol is SASL_PLAINTEXT or SASL_SSL."
    )
    kafka_sasl_username: str | None = Field(None, description="SASL user; SASL protocols need it.")
    kafka_sasl_password: SecretStr | None = Field(
        None, description="Password of the SASL user; SASL protocols need it."
    )
    kafka_ssl_cafile: str | None = Field(
        None,
        description="PEM file of the authorities that sign the brokers' certificates; unset: the system's.",
    )
    kafka_ssl_certfile: str | None = Field(
        None, description="PEM file of a client certificate, for brokers that ask for one."
    )
    kafka_ssl_keyfile: str | None = Field(
        None,
        description="PEM file of the client certificate's key; unset: the key is in the certificate's file.",
    )
    kafka_ssl_keyfile_password: SecretStr | None = Field(
        None, description="Password of the client certificate's key."
    )
    max_record_bytes: Bytes = Field(
        1024 * 1024,
        description="Size of the largest request and promotion event that is accepted; a larger request becomes "
        "a dead letter. `headrace init` sizes new topics by it.",
    )
    fetch_max_bytes: Bytes = Field(
        1024 * 1024, description="Size of one fetch from one partition; raise it for large records."
    )
    batch_max_bytes: Bytes = Field(
        64 * 1024 * 1024,
        description="Size of the largest batch of records after it is inflated; a larger one is stepped over, with a "
        "dead letter.",
    )

    @model_validator(mode="after")
    def _kafka_credentials_are_complete(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                f"HEADRACE_KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs "
                "HEADRACE_KAFKA_SASL_USERNAME and HEADRACE_KAFKA_SASL_PASSWORD"
            )
        if self.kafka_ssl_keyfile and not self.kafka_ssl_certfile:
            raise ValueError("HEADRACE_KAFKA_SSL_KEYFILE needs HEADRACE_KAFKA_SSL_CERTFILE")
        return self


class TopicSettings(Section):
    title: ClassVar[str] = "Topics"

    topic_requests: str = Field(
        "predict-requests",
        description="Topic of the requests; it needs as many partitions as the topic of the responses.",
    )
    topic_responses: str = Field("predict-responses", description="Topic of the responses.")
    topic_dead_letters: str = Field(
        "predict-dead-letters", description="Topic of the requests that could not be read or served."
    )
    topic_outcomes: str = Field(
        "predict-outcomes",
        description="Topic of outcomes: what users did after a prediction. No role reads it yet.",
    )
    topic_metrics: str = Field("predict-metrics", description="Topic of the workers' metrics deltas.")
    topic_alerts: str = Field("predict-alerts", description="Topic of the alerts that fire and resolve.")
    topic_promotions: str = Field(
        "model-promotions", description="Topic of the promotion events of operators; one partition."
    )
    topic_promotion_results: str = Field(
        "model-promotion-results", description="Topic of the results of promotion events; one partition."
    )


class ConsumerGroupSettings(Section):
    title: ClassVar[str] = "Consumer groups"

    group_id: str = Field("headrace-predict", description="Consumer group of the role predict.")
    control_group_id: str = Field("headrace-control", description="Consumer group of the role control.")
    monitor_group_id: str = Field("headrace-monitor", description="Consumer group of the role monitor.")
    log_group_id: str = Field(
        "headrace-log",
        description="Consumer group of the role log; a new group reads the responses from the beginning.",
    )

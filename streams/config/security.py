"""TLS and credentials as keyword arguments of the Kafka and Redis clients.

PostgreSQL reads its own from the DSN; `storage_settings.py` refuses a DSN that checks no certificate.
"""

from typing import Any, TypedDict

from streams.config.settings import Settings
from streams.config.tls import client_context


def kafka_security(settings: Settings) -> dict[str, Any]:
    """The keyword arguments of every aiokafka client, except the address.

    Raises SetupError when a certificate file cannot be used.
    """
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        options["ssl_context"] = client_context(
            "HEADRACE_KAFKA_SSL",
            cafile=settings.kafka_ssl_cafile,
            certfile=settings.kafka_ssl_certfile,
            keyfile=settings.kafka_ssl_keyfile,
            keyfile_password=settings.kafka_ssl_keyfile_password,
        )
    if protocol.startswith("SASL"):
        assert settings.kafka_sasl_password is not None  # the settings refuse SASL without a password
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
        }
    return options


class RedisOptions(TypedDict):
    """The keyword arguments of every Redis client of Headrace."""

    redis_url: str
    timeout_seconds: float
    connection_options: dict[str, Any]
    """The TLS options of redis-py's connections."""


def redis_options(settings: Settings) -> RedisOptions:
    """Address, time limit and TLS of Redis; raises SetupError when a certificate file cannot be used."""
    return RedisOptions(
        redis_url=settings.redis_url.get_secret_value(),
        timeout_seconds=settings.redis_timeout_seconds,
        connection_options=_redis_tls(settings),
    )


def _redis_tls(settings: Settings) -> dict[str, Any]:
    if not settings.redis_url.get_secret_value().startswith("rediss://"):
        return {}
    cafile, certfile = settings.redis_ssl_cafile, settings.redis_ssl_certfile
    keyfile = settings.redis_ssl_keyfile
    # redis-py loads the files at its first connection, too late to refuse a start: load them here too.
    client_context("HEADRACE_REDIS_SSL", cafile=cafile, certfile=certfile, keyfile=keyfile)
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": cafile,
        "ssl_certfile": certfile,
        "ssl_keyfile": keyfile,
    }

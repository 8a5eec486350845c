"""Settings of PostgreSQL and Redis."""

from typing import ClassVar, Self
from urllib.parse import parse_qs

from pydantic import Field, SecretStr, field_validator, model_validator

from streams.config.setting_types import Seconds, Section, split_url


class PostgresSettings(Section):
    title: ClassVar[str] = "PostgreSQL"

    postgres_dsn: SecretStr = Field(
        SecretStr("postgresql://127.0.0.1:5432/headrace"),
        description="Address of the registry's database. TLS: ?sslmode=verify-full&sslrootcert=FILE, with "
        "sslcert and sslkey for a client certificate.",
    )

    @field_validator("postgres_dsn")
    @classmethod
    def _postgres_tls_is_verified_or_off(cls, dsn: SecretStr) -> SecretStr:
        parts = split_url(dsn, "postgresql", "postgres")
        modes = parse_qs(parts.query).get("sslmode", [])
        if not modes:
            # Without sslmode the driver tries TLS and checks no certificate, so the default is no TLS.
            separator = "&" if parts.query else "?"
            return SecretStr(f"{dsn.get_secret_value()}{separator}sslmode=disable")
        if modes[-1] not in ("disable", "verify-ca", "verify-full"):
            raise ValueError(f"sslmode={modes[-1]} checks no certificate; use verify-full (or disable)")
        return dsn


class RedisSettings(Section):
    title: ClassVar[str] = "Redis"

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Address of the cache and the route hints. TLS: rediss://; an ACL user: USER:PASSWORD@.",
    )
    redis_ssl_cafile: str | None = Field(
        None,
        description="PEM file of the authorities that sign the certificate of rediss://; unset: the system's.",
    )
    redis_ssl_certfile: str | None = Field(
        None, description="PEM file of a client certificate, for a Redis that asks for one."
    )
    redis_ssl_keyfile: str | None = Field(
        None,
        description="PEM file of the client certificate's key; unset: the key is in the certificate's file.",
    )
    redis_timeout_seconds: Seconds = Field(
        0.5, description="Limit of one call. After a timeout, predictions continue without the cache."
    )

    @field_validator("redis_url")
    @classmethod
    def _redis_tls_is_verified(cls, url: SecretStr) -> SecretStr:
        options = parse_qs(split_url(url, "redis", "rediss", "unix").query)
        if "ssl_cert_reqs" in options or "ssl_check_hostname" in options:
            raise ValueError("certificates are always checked; remove ssl_cert_reqs and ssl_check_hostname")
        return url

    @model_validator(mode="after")
    def _redis_tls_is_complete(self) -> Self:
        if self.redis_ssl_keyfile and not self.redis_ssl_certfile:
            raise ValueError("HEADRACE_REDIS_SSL_KEYFILE needs HEADRACE_REDIS_SSL_CERTFILE")
        files = (self.redis_ssl_cafile, self.redis_ssl_certfile)
        if any(files) and not self.redis_url.get_secret_value().startswith("rediss://"):
            raise ValueError("HEADRACE_REDIS_SSL_… needs a HEADRACE_REDIS_URL that begins with rediss://")
        return self

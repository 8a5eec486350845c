"""Settings of a worker process: its work, its HTTP server and its log."""

from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from schemas.bounds import Identifier
from streams.config.setting_types import Bytes, Port, Positive, Records, Seconds, Section

# A shorter token can be guessed.
DASHBOARD_TOKEN_CHARACTERS = 16


class WorkerSettings(Section):
    title: ClassVar[str] = "Worker"

    worker_name: Identifier | None = Field(
        None,
        description="Name of this process, unique in the installation and the same after a restart; unset: host "
        "name and process id.",
    )
    slice_max_records: Records = Field(
        2000, description="Size of a slice: consecutive records of one partition that are worked on together."
    )
    slices_in_flight: Positive = Field(
        8,
        description="Number of full slices that are worked on at once; a smaller slice counts by its records.",
    )
    slices_set_aside: Positive = Field(
        8,
        description="Number of full slices that may wait for slow versions beside slices_in_flight, so that other "
        "versions go on.",
    )
    output_buffer_bytes: Bytes = Field(
        64 * 1024**2,
        description="Bytes of predictions that the role predict keeps until Kafka has them. While more come, no model is "
        "called.",
    )
    registry_poll_seconds: Seconds = Field(
        1.0,
        description="Longest interval between two polls of the registry's epoch. Without a hint from Redis, a worker "
        "reads a promotion at its next poll.",
    )
    stale_after_seconds: Seconds = Field(
        5.0,
        description='Time without a successful poll of the registry after which responses say "stale": true.',
    )
    shutdown_seconds: Seconds = Field(
        9.0,
        description="Limit of the orderly end after SIGTERM; the process ends with exit code 75 after it.",
    )
    watchdog_seconds: Seconds = Field(
        60.0,
        description="Time without progress after which the process ends with exit code 70; so does a process in "
        "which no Python code could run for so long. For progress the role predict allows at least twice the longest "
        "timeout_ms of the served versions.",
    )
    metrics_interval_seconds: Seconds = Field(
        1.0, description="Interval between two metrics deltas of each version that the worker serves."
    )

    @model_validator(mode="after")
    def _polls_keep_responses_fresh(self) -> Self:
        if self.registry_poll_seconds >= self.stale_after_seconds:
            raise ValueError(
                f"HEADRACE_REGISTRY_POLL_SECONDS={self.registry_poll_seconds:g} must be less than "
                f"HEADRACE_STALE_AFTER_SECONDS={self.stale_after_seconds:g}, or all answers say stale"
            )
        return self


class HttpSettings(Section):
    title: ClassVar[str] = "HTTP and live page"

    http_host: str = Field("127.0.0.1", description="Address on which the worker serves HTTP.")
    http_port: Port | None = Field(
        None,
        description="Port of /livez, /readyz, /metrics and, with the role monitor, of the live page. 0: a free "
        "port, which the log names. Unset: no HTTP.",
    )
    http_socket: str | None = Field(
        None, description="Path of a Unix socket on which HTTP is served, instead of the port."
    )
    dashboard_token: SecretStr | None = Field(
        None,
        description="Bearer token with which the live page may promote and roll back, 16 characters or more. "
        "Unset: the page only shows.",
    )
    dashboard_hosts: str = Field(
        "",
        description="Further host names by which the live page may be requested, as behind a proxy: name,…",
    )

    @field_validator("dashboard_token")
    @classmethod
    def _token_is_hard_to_guess(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None:
            text = token.get_secret_value()
            if len(text) < DASHBOARD_TOKEN_CHARACTERS or not text.isascii() or not text.isprintable():
                raise ValueError(
                    f"write {DASHBOARD_TOKEN_CHARACTERS} characters or more, as `openssl rand -hex 16` prints"
                )
        return token


class LogSettings(Section):
    title: ClassVar[str] = "Log of the process"

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Form of a log line; auto: console on a terminal, json elsewhere."
    )

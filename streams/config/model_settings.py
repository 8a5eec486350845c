"""Settings of model servers and model files: which hosts may be called, with which credentials."""

from pathlib import Path
from typing import ClassVar, Self

import platformdirs
from pydantic import Field, SecretStr, field_validator, model_validator

from streams.config.setting_types import Bytes, Positive, Seconds, Section, check_base_url


class BackendSettings(Section):
    title: ClassVar[str] = "Models and model servers"

    onnx_threads: Positive = Field(1, description="Threads of one ONNX Runtime session.")
    onnx_memory_bytes: Bytes = Field(
        512 * 1024**2,
        description="Memory that the tensors of one ONNX version may take in a call, without its weights; a call that "
        "needs more is made smaller.",
    )
    load_timeout_seconds: Seconds = Field(
        120.0,
        description="Limit of loading a version and of its first call, without the download of its file. A version "
        "that takes longer is not served; it is tried again later.",
    )
    start_wait_seconds: Seconds = Field(
        60.0,
        description="How long a starting worker waits for its versions. Then it answers with those that are loaded, "
        "and loads the others meanwhile.",
    )
    backend_hosts: str = Field(
        "",
        description="Model servers that a version may name as endpoint: host[:port],…; empty: this machine only.",
    )
    backend_networks: str = Field(
        "",
        description="Networks, 10.0.0.0/8,…, in which listed hosts may be although their addresses are not public.",
    )
    backend_tokens: SecretStr = Field(
        SecretStr(""),
        description="Bearer tokens for model servers: host[:port]=TOKEN,… or host[:port]=@FILE,…, which is read again "
        "when it changes.",
    )
    backend_headers: SecretStr = Field(
        SecretStr(""),
        description="Headers for model servers and gateways, such as API keys: host[:port]=NAME:VALUE,…",
    )
    backend_ssl_cafile: str | None = Field(
        None,
        description="PEM file of the authorities that sign the certificates of model servers and of servers with "
        "model files; unset: the system's.",
    )


class ArtifactSettings(Section):
    title: ClassVar[str] = "Model files"

    artifact_dir: str | None = Field(
        None,
        description="Folder of fetched model files, and of what the processes of a machine know of each other; several "
        "workers may share it. Unset: headrace/artifacts in the user's cache folder.",
    )
    artifact_max_bytes: Bytes = Field(
        4 * 1024**3, description="Size of the largest model file that is fetched."
    )
    artifact_timeout_seconds: Seconds = Field(3600.0, description="Limit of the download of one model file.")
    artifact_cache_bytes: Bytes = Field(
        20 * 1024**3,
        description="Size of the folder beyond which the least recently used files are deleted.",
    )
    artifact_hosts: str = Field(
        "",
        description="Web servers that an http(s) artifact_uri may name: host[:port],…; empty: this machine only.",
    )
    artifact_tokens: SecretStr = Field(
        SecretStr(""), description="Bearer tokens for those web servers, in the same form."
    )
    s3_endpoint: str | None = Field(
        None, description="S3-compatible store: http(s)://host[:port]. Unset: Amazon S3."
    )
    s3_region: str = Field("us-east-1", description="Region of the S3 store.")
    s3_access_key_id: str | None = Field(
        None, description="Access key of the S3 store. Unset: requests are not signed."
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="Secret of the access key.")
    mlflow_url: str | None = Field(
        None, description="MLflow tracking server, for mlflow:/ URIs: http(s)://host[:port][/path]."
    )
    mlflow_token: SecretStr | None = Field(
        None, description="Bearer token for MLflow, instead of user name and password."
    )
    mlflow_username: str | None = Field(None, description="User name at MLflow.")
    mlflow_password: SecretStr | None = Field(None, description="Password of the user at MLflow.")

    @property
    def artifact_folder(self) -> Path:
        """The folder that the processes of a machine share."""
        return Path(self.artifact_dir or platformdirs.user_cache_path("headrace") / "artifacts")

    @field_validator("s3_endpoint", "mlflow_url")
    @classmethod
    def _store_is_an_address(cls, url: str | None) -> str | None:
        return check_base_url(url)

    @model_validator(mode="after")
    def _store_credentials_are_complete(self) -> Self:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("HEADRACE_S3_ACCESS_KEY_ID and HEADRACE_S3_SECRET_ACCESS_KEY go together")
        if (self.mlflow_username is None) != (self.mlflow_password is None):
            raise ValueError("HEADRACE_MLFLOW_USERNAME and HEADRACE_MLFLOW_PASSWORD go together")
        return self

"""Outbound hosts by the settings: model servers, and sources and cache of model files."""

from streams.config.setting_types import listed
from streams.config.settings import Settings
from workers.artifacts.mlflow import MlflowServer
from workers.artifacts.s3 import S3Server
from workers.artifacts.sources import ARTIFACT_HOSTS, ArtifactSources
from workers.artifacts.store import ArtifactStore
from workers.network.endpoints import Outbound


def backend_outbound(settings: Settings) -> Outbound:
    """The model servers that versions may name."""
    return Outbound(
        hosts=listed(settings.backend_hosts),
        networks=listed(settings.backend_networks),
        tokens=settings.backend_tokens,
        headers=settings.backend_headers,
        ca_file=settings.backend_ssl_cafile,
    )


def artifact_sources(settings: Settings) -> ArtifactSources:
    """The sources of model files that versions may name."""
    web = Outbound(
        hosts=listed(settings.artifact_hosts),
        networks=listed(settings.backend_networks),
        tokens=settings.artifact_tokens,
        ca_file=settings.backend_ssl_cafile,
        setting=ARTIFACT_HOSTS,
    )
    s3 = S3Server(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key,
        ca_file=settings.backend_ssl_cafile,
    )
    mlflow = None
    if settings.mlflow_url is not None:
        mlflow = MlflowServer(
            settings.mlflow_url,
            token=settings.mlflow_token,
            username=settings.mlflow_username,
            password=settings.mlflow_password,
            ca_file=settings.backend_ssl_cafile,
        )
    return ArtifactSources(web=web, s3=s3, mlflow=mlflow)


def artifact_store(settings: Settings) -> ArtifactStore:
    """The cache of fetched model files; processes with the same folder share it."""
    return ArtifactStore(
        settings.artifact_folder,
        artifact_sources(settings),
        max_bytes=settings.artifact_max_bytes,
        cache_bytes=settings.artifact_cache_bytes,
        timeout_seconds=settings.artifact_timeout_seconds,
    )

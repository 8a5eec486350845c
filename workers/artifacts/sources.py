"""The source of an `artifact_uri`, by its scheme."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from schemas.errors import ArtifactError
from workers.artifacts.http_files import HttpFile
from workers.artifacts.local_files import LocalFile
from workers.artifacts.mlflow import MlflowServer, MlflowVersion
from workers.artifacts.port import ArtifactSource
from workers.artifacts.s3 import S3Server
from workers.network.endpoints import Outbound

ARTIFACT_HOSTS = "HEADRACE_ARTIFACT_HOSTS"


@dataclass(frozen=True, slots=True)
class ArtifactSources:
    """The sources that the operator allows, with their credentials."""

    web: Outbound = field(default=Outbound(setting=ARTIFACT_HOSTS))
    s3: S3Server = field(default=S3Server())
    mlflow: MlflowServer | None = None

    def __call__(self, uri: str) -> ArtifactSource:
        """The source of a URI; raises ArtifactError for one that is not allowed, and SetupError."""
        try:
            scheme = urlsplit(uri).scheme
        except ValueError:
            raise ArtifactError("artifact_uri is not a URI; write SCHEME://…") from None
        if scheme == "file":
            return LocalFile.of(uri)
        if scheme == "s3":
            return self.s3.object(uri)
        if scheme in ("http", "https"):
            return HttpFile.of(uri, self.web)
        if scheme == "mlflow":
            return self.mlflow_version(uri)
        # The rest of the URI is not quoted: it may have credentials.
        raise ArtifactError(
            f"artifact_uri has scheme {scheme!r}; write file:///PATH, s3://BUCKET/KEY, https://HOST/PATH "
            "or mlflow:/NAME/VERSION"
        )

    def mlflow_version(self, uri: str) -> MlflowVersion:
        """The model version of a URI `mlflow:/NAME/VERSION`; raises ArtifactError for other URIs."""
        return MlflowVersion.of(uri, self.mlflow, self)

"""Objects of any S3-compatible store: `s3://BUCKET/KEY`.

Address, region and credentials come only from the operator's settings, not from the URI and not from the
environment (`AWS_…`, proxies, a cloud's metadata service).
"""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store
from pydantic import SecretStr

from schemas.errors import ArtifactError, SetupError, UnavailableError
from workers.artifacts.port import CHUNK_BYTES, ArtifactStream, in_thread

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ClientConfig, S3Config, S3Credential

_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.+)", re.DOTALL)
_STATUS = re.compile(r"status code: (\d{3})")
# The reader limits the time of each chunk.
_NO_LIMIT = timedelta(days=30)
_CONNECT = timedelta(seconds=10)
_RETRIES = 2
_RETRY = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class S3Server:
    """An object store. Without `endpoint` it is Amazon S3; without `access_key_id` requests are not signed.

    `ca_file` is a bundle of certificate authorities in addition to the machine's.
    """

    endpoint: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    ca_file: str | None = None

    def object(self, uri: str) -> "S3Object":
        """The object of a URI `s3://BUCKET/KEY`; raises ArtifactError for other URIs."""
        match = _URI.fullmatch(uri)
        if match is None:
            # The URI is not quoted: it may have credentials.
            raise ArtifactError("artifact_uri is not an S3 object; write s3://BUCKET/KEY")
        return S3Object(uri, self, bucket=match[1], key=match[2])

    def bucket(self, name: str) -> S3Store:
        """A client for a bucket; it blocks while it reads `ca_file`. Raises SetupError."""
        endpoint = self.endpoint or f"https://s3.{self.region}.amazonaws.com"
        # The library reads each of these from the environment unless it is set here.
        config: S3Config = {
            "endpoint": endpoint,
            "aws_endpoint_url_s3": endpoint,
            "region": self.region,
            "request_payer": False,
            "s3_express": False,
            "skip_signature": self.access_key_id is None,
            "virtual_hosted_style_request": False,
        }
        client: ClientConfig = {
            "allow_http": endpoint.startswith("http:"),
            "allow_invalid_certificates": False,
            "connect_timeout": _CONNECT,
            # A proxy that no host uses; otherwise the library would use the environment's.
            "proxy_url": "http://127.0.0.1:9",
            "proxy_excludes": "0.0.0.0/0,::/0,*",
            "timeout": _NO_LIMIT,
        }
        if self.ca_file is not None:
            try:
                client["root_certificate"] = Path(self.ca_file).read_bytes()
            except OSError as error:
                raise SetupError(
                    f"certificate authorities cannot be read from {self.ca_file}: {error.strerror}"
                ) from None
        return S3Store(
            name,
            config=config,
            client_options=client,
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY},
            credential_provider=None if self.access_key_id is None else self._credentials,
        )

    def _credentials(self) -> "S3Credential":
        assert self.access_key_id is not None
        assert self.secret_access_key is not None
        return {
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key.get_secret_value(),
            "expires_at": None,
        }


@dataclass(frozen=True, slots=True)
class S3Object:
    """One object of a store."""

    uri: str
    server: S3Server
    bucket: str
    key: str

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[ArtifactStream, None]:
        store = await in_thread(self.server.bucket, self.bucket)
        try:
            result = await obstore.get_async(store, self.key)
        except FileNotFoundError:
            raise ArtifactError(f"{self.uri} does not exist") from None
        except (PermissionDeniedError, UnauthenticatedError):
            raise ArtifactError(
                f"{self.uri}: access is denied; see HEADRACE_S3_ACCESS_KEY_ID and HEADRACE_S3_SECRET_ACCESS_KEY"
            ) from None
        except ValueError:
            raise ArtifactError(f"{self.uri}: the key is invalid in S3; write s3://BUCKET/KEY") from None
        except BaseError as error:
            raise self._unavailable(error) from None
        yield ArtifactStream(result.meta["size"], self._chunks(result))

    async def _chunks(self, result: "GetResult") -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except BaseError as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: BaseError) -> UnavailableError:
        # The library's message is not quoted: it has the whole request, credentials included.
        status = _STATUS.search(str(error))
        what = f"answers with status {status[1]}" if status else "does not answer, or the connection broke"
        return UnavailableError(f"{self.uri}: {self.server.endpoint or 'Amazon S3'} {what}; try again later")

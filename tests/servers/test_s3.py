"""Model files of a real S3-compatible store, which checks signatures and rights."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.errors import ArtifactError, UnavailableError
from tests.servers.conftest import RunningServers, running
from tests.servers.stores import Moto
from workers.artifacts.s3 import S3Server
from workers.artifacts.sources import ArtifactSources
from workers.artifacts.store import ArtifactStore

SERVERS = (Moto,)
KEY = "team/m v1+2%20é.onnx"
# More than a few of the store's chunks.
CONTENT = bytes(range(8, 256)) * 100_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass(frozen=True)
class FilledStore:
    """A store with an object, and whose keys open what."""

    moto: Moto
    keys: dict[str, tuple[str, str]]

    def asked_by(self, user: str | None, secret: str | None = None) -> S3Server:
        key_id, own = self.keys[user] if user else (None, "")
        return S3Server(
            self.moto.url,
            "eu-central-1",
            access_key_id=key_id,
            secret_access_key=SecretStr(secret or own) if key_id else None,
        )


@pytest.fixture(scope="module")
def filled(running_servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> FilledStore:
    moto = running(running_servers, Moto)
    path = tmp_path_factory.mktemp("s3") / "m.onnx"
    path.write_bytes(CONTENT)
    return FilledStore(moto, moto.fill(f"{KEY}={path}"))


async def fetch(folder: Path, server: S3Server, key: str = KEY, bucket: str = "models") -> bytes:
    store = ArtifactStore(folder, ArtifactSources(s3=server), max_bytes=10**9, cache_bytes=10**9)
    async with store.fetched(f"s3://{bucket}/{key}", DIGEST) as path:
        return path.read_bytes()


async def test_who_may_read_gets_the_object(filled: FilledStore, tmp_path: Path) -> None:
    """Whole, by a key with everything in it that needs quoting."""
    assert await fetch(tmp_path, filled.asked_by("reader")) == CONTENT


@pytest.mark.parametrize("who", ["nobody", "wrong secret", "unsigned"])
async def test_who_may_not_read_is_told(filled: FilledStore, tmp_path: Path, who: str) -> None:
    """Neither key nor secret nor signature is in it."""
    server = {
        "nobody": filled.asked_by("nobody"),
        "wrong secret": filled.asked_by("reader", "another-secret"),
        "unsigned": filled.asked_by(None),
    }[who]
    with pytest.raises(ArtifactError, match=r"access is denied.*HEADRACE_S3_ACCESS_KEY_ID") as failure:
        await fetch(tmp_path, server)
    secrets = [*filled.keys["reader"], *filled.keys["nobody"], "another-secret", "Signature"]
    assert not [secret for secret in secrets if secret in str(failure.value)]


async def test_what_is_not_there_is_told(filled: FilledStore, tmp_path: Path) -> None:
    """An object, and a bucket."""
    for key, bucket in (("missing.onnx", "models"), (KEY, "elsewhere")):
        with pytest.raises(ArtifactError, match="does not exist"):
            await fetch(tmp_path, filled.asked_by("reader"), key, bucket)


async def test_a_store_that_is_gone_may_be_back(filled: FilledStore, tmp_path: Path) -> None:
    """At the same address, where no server listens."""
    server = S3Server("http://127.0.0.1:1", access_key_id="id", secret_access_key=SecretStr("secret"))
    with pytest.raises(UnavailableError, match="does not answer"):
        await fetch(tmp_path, server)

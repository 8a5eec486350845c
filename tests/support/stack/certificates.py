"""A certificate authority of the test's own, and certificates signed by it: for this machine, and for SERVER_NAME."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

KEY_PASSWORD = "of-the-key"
SERVER_NAME = "models.test"


@dataclass(frozen=True)
class Certificates:
    """PEM files: the CA that signed all, one that signed none, a server's and a client's."""

    ca: Path
    other_ca: Path
    server_certificate: Path
    server_key: Path
    expired_certificate: Path
    """The server's, until yesterday."""
    client_certificate: Path
    client_key: Path
    """Encrypted with KEY_PASSWORD."""


def make_certificates(folder: Path) -> Certificates:
    """Make them with the `openssl` command; skip the test where it is not installed."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other-ca"):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "keyUsage=critical,keyCertSign", "-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
    (folder / "extensions").write_text(f"subjectAltName=IP:127.0.0.1,DNS:{SERVER_NAME}\n")
    for name in ("server", "client"):
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
    for name, days, certificate in (
        ("server", "2", "server"),
        ("server", "-1", "expired"),
        ("client", "2", "client"),
    ):
        openssl(
            *("x509", "-req", "-days", days, "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "extensions", "-out", f"{certificate}.pem"),
        )
    openssl(
        *("pkcs8", "-topk8", "-in", "client.key", "-out", "client-locked.key"),
        *("-passout", f"pass:{KEY_PASSWORD}"),
    )
    return Certificates(
        ca=folder / "ca.pem",
        other_ca=folder / "other-ca.pem",
        server_certificate=folder / "server.pem",
        server_key=folder / "server.key",
        expired_certificate=folder / "expired.pem",
        client_certificate=folder / "client.pem",
        client_key=folder / "client-locked.key",
    )

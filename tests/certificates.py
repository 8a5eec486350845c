"""A certificate authority of the test's own, and certificates for this machine signed by it."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

KEY_PASSWORD = "of-the-key"


@dataclass(frozen=True)
class Certificates:
    """PEM files: the CA that signed all, one that signed none, a server's and a client's."""

    ca: Path
    other_ca: Path
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    client_key: Path
    """Encrypted with KEY_PASSWORD."""


def make_certificates(folder: Path) -> Certificates:
    """Make them by the `openssl` command; a test that needs them is skipped where there is none."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other-ca"):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "keyUsage=critical,keyCertSign", "-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        openssl(
            *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "extensions", "-out", f"{name}.pem"),
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
        client_certificate=folder / "client.pem",
        client_key=folder / "client-locked.key",
    )

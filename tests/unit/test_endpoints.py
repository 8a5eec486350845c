"""workers/endpoints.py: which addresses a registered version can make a worker call."""

import pytest

from schemas.errors import ArtifactError, SetupError
from workers.endpoints import check_endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:8080/v2/models/m",
        "https://127.9.9.9/v2/models/m",
        "http://[::1]:8080/v2/models/m",
        "http://LOCALHOST:8080/v2/models/m",
    ],
)
def test_this_machine_is_allowed_by_default(endpoint: str) -> None:
    """Loopback by number or by name, any port."""
    assert check_endpoint(endpoint).partition("://")[2]


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1:8080/v2/models/m",
        "http://0.0.0.0:8080/v2/models/m",
        "http://2130706433/v2/models/m",
        "http://0x7f.1/v2/models/m",
        "http://localhost.example.test/v2/models/m",
        "http://127.0.0.1.example.test/v2/models/m",
        "http://[::ffff:10.0.0.1]/v2/models/m",
    ],
)
def test_other_machines_are_not(endpoint: str) -> None:
    """Whatever is not plainly a loopback address is refused."""
    with pytest.raises(ArtifactError, match="HEADRACE_BACKEND_HOSTS"):
        check_endpoint(endpoint)


def test_a_list_says_exactly_what_is_allowed() -> None:
    """A host with all its ports or with one; what is not listed is refused, this machine included."""
    hosts = ["models.example.test", "other.example.test:8443", "[::1]:9000"]
    for endpoint in (
        "http://models.example.test/v2/models/m",
        "https://Models.Example.Test:9999/v2/models/m",
        "https://other.example.test:8443/v2/models/m",
        "http://[::1]:9000/v2/models/m",
    ):
        check_endpoint(endpoint, hosts)
    for endpoint in (
        "https://other.example.test/v2/models/m",
        "http://[::1]:9001/v2/models/m",
        "http://127.0.0.1/v2/models/m",
        "http://evil.models.example.test/v2/models/m",
    ):
        with pytest.raises(ArtifactError, match="not listed"):
            check_endpoint(endpoint, hosts)


@pytest.mark.parametrize(
    ("endpoint", "called"),
    [
        ("http://LocalHost/v2/models/m/", "http://localhost:80/v2/models/m"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        (
            "http://127.0.0.1:8080/v2/models/a%20b/versions/3",
            "http://127.0.0.1:8080/v2/models/a%20b/versions/3",
        ),
        ("HTTP://127.0.0.1/\tv2", "http://127.0.0.1:80/v2"),
    ],
)
def test_what_is_called_is_what_was_checked(endpoint: str, called: str) -> None:
    """The address is put together from its checked parts, so that no two parsers can differ about it."""
    assert check_endpoint(endpoint) == called


def test_the_scheme_gives_the_port() -> None:
    """A listed port also means the scheme's own when the endpoint names none."""
    check_endpoint("https://models.example.test/v2/models/m", ["models.example.test:443"])
    with pytest.raises(ArtifactError, match=r"models\.example\.test:80 is not listed"):
        check_endpoint("http://models.example.test/v2/models/m", ["models.example.test:443"])


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://127.0.0.1/m",
        "ftp://127.0.0.1:80/m",
        "file:///secret",
        "127.0.0.1:8080/secret",
        "http:///secret",
        "http://127.0.0.1:port/secret",
        "http://[secret",
        "http://somebody:secret@127.0.0.1/v2/models/m",
        "http://secret@127.0.0.1/v2/models/m",
        "http://127.0.0.1/v2/models/m?token=secret",
        "http://127.0.0.1/v2/models/m#secret",
    ],
)
def test_what_is_no_plain_endpoint_is_refused_unquoted(endpoint: str) -> None:
    """Other schemes, broken URLs and URLs with credentials; nothing of them is quoted."""
    with pytest.raises(ArtifactError) as refusal:
        check_endpoint(endpoint)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "entry", ["http://models.example.test", "a.test:port", "a.test/path", "user@a.test", "[::1"]
)
def test_a_list_that_cannot_be_read_stops_the_start(entry: str) -> None:
    """The entry is named, and what to write."""
    with pytest.raises(SetupError, match="write host or host:port"):
        check_endpoint("http://127.0.0.1/v2/models/m", [entry])

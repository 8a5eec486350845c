"""workers/network/endpoints.py: which addresses a registered version can make a worker call."""

import pytest
from pydantic import SecretStr

from schemas.errors import ArtifactError, SetupError
from workers.network.endpoints import Outbound


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
    """Loopback by address or name, on any port."""
    assert Outbound().check(endpoint).partition("://")[2]


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
    """Only plain loopback addresses are allowed."""
    with pytest.raises(ArtifactError, match="HEADRACE_BACKEND_HOSTS"):
        Outbound().check(endpoint)


def test_a_list_says_exactly_what_is_allowed() -> None:
    """A host with all ports or with one; other hosts are refused, this machine included."""
    hosts = ["models.example.test", "other.example.test:8443", "[::1]:9000"]
    for endpoint in (
        "http://models.example.test/v2/models/m",
        "https://Models.Example.Test:9999/v2/models/m",
        "https://other.example.test:8443/v2/models/m",
        "http://[::1]:9000/v2/models/m",
    ):
        Outbound(hosts).check(endpoint)
    for endpoint in (
        "https://other.example.test/v2/models/m",
        "http://[::1]:9001/v2/models/m",
        "http://127.0.0.1/v2/models/m",
        "http://evil.models.example.test/v2/models/m",
    ):
        with pytest.raises(ArtifactError, match="not listed"):
            Outbound(hosts).check(endpoint)


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
    """The URL is built from its checked parts, so that another parser cannot read it differently."""
    assert Outbound().check(endpoint) == called


def test_the_scheme_gives_the_port() -> None:
    """A listed port also matches the default port of the scheme."""
    Outbound(["models.example.test:443"]).check("https://models.example.test/v2/models/m")
    with pytest.raises(ArtifactError, match=r"models\.example\.test:80 is not listed"):
        Outbound(["models.example.test:443"]).check("http://models.example.test/v2/models/m")


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
    """Other schemes, invalid URLs and URLs with credentials; the message quotes none of them."""
    with pytest.raises(ArtifactError) as refusal:
        Outbound().check(endpoint)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "entry", ["http://models.example.test", "a.test:port", "a.test/path", "user@a.test", "[::1"]
)
def test_a_list_that_cannot_be_read_stops_the_start(entry: str) -> None:
    """The message has the entry and the correct form."""
    with pytest.raises(SetupError, match="write host or host:port"):
        Outbound([entry]).check("http://127.0.0.1/v2/models/m")


NETWORKS = ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
        "192.168.0.1",
        "172.16.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "ff02::1",
        "240.0.0.1",
        "255.255.255.255",
    ],
)
def test_what_is_not_public_is_not_called_under_a_listed_name(address: str) -> None:
    """Private, link-local, loopback, unspecified, multicast and reserved addresses, also inside an IPv6 address."""
    for networks in ([], NETWORKS):
        assert not Outbound(["models.example.test"], networks).may_connect("models.example.test", address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8"])
def test_what_is_public_is_called(address: str) -> None:
    """Without a listed network."""
    assert Outbound(["models.example.test"]).may_connect("models.example.test", address)


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "fd00::1%eth0"])
def test_networks_of_the_operator_are_called(address: str) -> None:
    """Other private networks are not."""
    assert Outbound(["models.example.test"], NETWORKS).may_connect("models.example.test", address)
    assert not Outbound(["models.example.test"]).may_connect("models.example.test", address)


def test_addresses_by_number_were_checked_as_such() -> None:
    """A listed address is allowed as it is; localhost must resolve to loopback."""
    assert Outbound(["10.0.0.1"]).may_connect("10.0.0.1", "10.0.0.1")
    for networks in ([], NETWORKS):
        assert Outbound(networks=networks).may_connect("localhost", "127.0.0.1")
        assert Outbound(networks=networks).may_connect("localhost", "::1")
        assert not Outbound(networks=networks).may_connect("localhost", "10.0.0.1")
        assert not Outbound(networks=networks).may_connect("localhost", "8.8.8.8")


@pytest.mark.parametrize("network", ["10.0.0.0/33", "10.0.0.1/8", "private", ""])
def test_networks_that_cannot_be_read_stop_the_start(network: str) -> None:
    """The message has the setting and the correct form; no call is made."""
    with pytest.raises(SetupError, match="HEADRACE_BACKEND_NETWORKS"):
        Outbound(networks=[network]).check("http://127.0.0.1/v2/models/m")


def test_a_token_goes_with_its_host_and_port() -> None:
    """The first matching entry applies; the token is everything after the first equals sign."""
    outbound = Outbound(tokens=SecretStr("a.test:8443=first==, a.test=second,[::1]:9=third,"))
    assert outbound.token("https://A.test:8443/v2") == "first=="
    assert outbound.token("http://a.test/v2") == "second"
    assert outbound.token("http://[::1]:9/v2") == "third"
    assert outbound.token("http://[::1]:8/v2") is None
    assert outbound.token("http://b.a.test/v2") is None
    assert "second" not in repr(outbound)


@pytest.mark.parametrize(
    "entry", ["secret", "a.test=", "=secret", "a.test=se\ncret", "a.test=s\xe9cret", "a.test=x,se/cret=="]
)
def test_tokens_that_cannot_be_read_stop_the_start_unquoted(entry: str) -> None:
    """Also tokens with characters that are invalid in a header, which the HTTP library would quote."""
    for endpoint in ("http://a.test/v2", "http://b.test/v2"):
        with pytest.raises(SetupError, match=r"host\[:port\]=TOKEN") as refusal:
            Outbound(tokens=SecretStr("z.test=fine," + entry)).token(endpoint)
        assert "cret" not in str(refusal.value)


def test_headers_go_with_their_host_and_port() -> None:
    """All that match; a value may have colons and equals signs."""
    headers = SecretStr("a.test:8443=X-Api-Key: k=1:2,a.test=x-tenant:ads,b.test=x-tenant:other")
    outbound = Outbound(headers=headers)
    assert outbound.extra_headers("https://a.test:8443/v2") == {"x-api-key": "k=1:2", "x-tenant": "ads"}
    assert outbound.extra_headers("http://a.test/v2") == {"x-tenant": "ads"}
    assert outbound.extra_headers("http://c.test/v2") == {}


@pytest.mark.parametrize(
    "entry",
    [
        "a.test=secret",
        "a.test=:secret",
        "a.test=x y:secret",
        "a.test=x-key:",
        "a.test=Host:secret",
        "a.test=content-length:secret",
        "a.test=x-key:secret\r\nx: y",
        "=x-key:secret",
    ],
)
def test_headers_that_cannot_be_read_stop_the_start_unquoted(entry: str) -> None:
    """Also those that HTTP or Headrace sets."""
    with pytest.raises(SetupError, match="HEADRACE_BACKEND_HEADERS has an entry that is not") as error:
        Outbound(headers=SecretStr(entry)).extra_headers("http://a.test/v2")
    assert "secret" not in str(error.value)

"""PURE rules for the addresses that a version may name as its endpoint.

Whoever may register a model must not be able to make workers call whatever they can reach: an
endpoint is on this machine, unless the operator of the workers lists other hosts, and then it is
one of those. What a listed name resolves to is checked at each connection: addresses that are not
public are called only in networks that the operator lists too, so that no name server can point a
worker at what is private.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from schemas.errors import ArtifactError, SetupError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
HostAndPort = tuple[str, int | None]

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Outbound:
    """What the operator of the workers allows: hosts, networks, and the tokens that go with hosts.

    Hosts are `host[:port]`, a host without port with all its ports, an empty list loopback addresses;
    networks are in CIDR form; `tokens` are `host[:port]=TOKEN,…`. `ca_file` is a bundle of certificate
    authorities instead of the machine's. `setting` is the name of the setting with the hosts.
    """

    hosts: Sequence[str] = ()
    networks: Sequence[str] = ()
    tokens: SecretStr = field(default_factory=lambda: SecretStr(""))
    ca_file: str | None = None
    setting: str = "HEADRACE_BACKEND_HOSTS"

    def check(self, endpoint: str) -> str:
        """The endpoint as it may be called, put together from what was checked; no slash at its end.

        Raises SetupError for a list that cannot be read, and ArtifactError for an endpoint that is not
        allowed or has more than a scheme, a host, a port and a path.
        """
        self._networks()
        allowed = {_host_and_port(entry, self.setting) for entry in self.hosts}
        scheme, host, port, path = _split(endpoint)
        if not allowed and not _is_loopback(host):
            raise ArtifactError(f"endpoint host {host} is not on this machine; list it in {self.setting}")
        if allowed and not allowed & {(host, None), (host, port)}:
            raise ArtifactError(f"endpoint {host}:{port} is not listed in {self.setting}")
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path.rstrip('/')}"

    def may_connect(self, host: str, resolved: str) -> bool:
        """Whether the address that an allowed host resolves to may be called."""
        if _is_address(host):
            return True
        address = ip_address(resolved.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if host == "localhost":
            return address.is_loopback
        return _is_public(address) or any(address in network for network in self._networks())

    def token(self, endpoint: str) -> str | None:
        """The bearer token for an endpoint; raises SetupError for a list that cannot be read."""
        _, host, port, _ = _split(endpoint)
        listed = list(map(_place_and_token, filter(None, self.tokens.get_secret_value().split(","))))
        return next((token for place, token in listed if place in {(host, None), (host, port)}), None)

    def _networks(self) -> list[Network]:
        try:
            return [ip_network(network) for network in self.networks]
        except ValueError:
            raise SetupError("HEADRACE_BACKEND_NETWORKS has what is no network; write 10.0.0.0/8,…") from None


def _split(endpoint: str) -> tuple[str, str, int, str]:
    try:
        parts = urlsplit(endpoint)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        raise ArtifactError("endpoint is not a URL; write http://HOST:PORT/PATH") from None
    host = parts.hostname
    if parts.scheme not in _PORTS or host is None or port is None:
        raise ArtifactError("endpoint is not an http or https URL; write http://HOST:PORT/PATH")
    if _carries_more(parts):
        raise ArtifactError(f"endpoint on {host} has a user, a query or a fragment; none of them is sent")
    return parts.scheme, host, port, parts.path


def _host_and_port(entry: str, setting: str) -> HostAndPort:
    try:
        parts = urlsplit(f"//{entry}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.netloc != entry or parts.username is not None:
        raise SetupError(f"{setting} has {entry!r}; write host or host:port")
    return host, port


def _place_and_token(entry: str) -> tuple[HostAndPort, str]:
    where, _, token = entry.strip().partition("=")
    try:
        place = _host_and_port(where, "a list of tokens")
    except SetupError:
        place = None
    # Nothing of it is quoted, and what no header may hold is seen here: either could show a token.
    if place is None or not token or not (token.isascii() and token.isprintable()):
        raise SetupError("a list of tokens has an entry that is not host[:port]=TOKEN")
    return place, token


def _carries_more(parts: SplitResult) -> bool:
    return parts.username is not None or parts.password is not None or bool(parts.query or parts.fragment)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (address.is_site_local or address.sixtofour is not None):
        return False
    # Reserved are, among others, those by which a gateway leads to IPv4 (RFC 6052), private or not.
    return address.is_global and not address.is_multicast and not address.is_reserved


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

"""PURE rules for the addresses that a version may have as its endpoint.

A user who may register models must not be able to make workers call internal services (server-side
request forgery). An endpoint must be on this machine, unless the operator lists other hosts; then it must
be one of those. The resolved address is checked at each connection: private addresses must be in networks
that the operator lists too, so a name server cannot direct a worker to a private service.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from schemas.errors import ArtifactError, SetupError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
HostAndPort = tuple[str, int | None]

_PORTS = {"http": 80, "https": 443}
# A token of RFC 9110.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Others would change how the request is framed, or what its content is.
_OWN_HEADERS = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept", "accept-encoding"}
)


@dataclass(frozen=True, slots=True)
class Outbound:
    """The hosts and networks that the operator allows, and the tokens of hosts.

    `hosts` are `host[:port]`; a host without a port allows all its ports, and an empty list allows loopback
    addresses. `networks` are in CIDR form. `tokens` are `host[:port]=TOKEN,…`, or `host[:port]=@FILE,…` (`tokens.py`), and
    `headers` `host[:port]=NAME:VALUE,…`. `ca_file` is a bundle of
    certificate authorities that replaces the machine's. `setting` is the name of the setting with the hosts.
    """

    hosts: Sequence[str] = ()
    networks: Sequence[str] = ()
    tokens: SecretStr = field(default_factory=lambda: SecretStr(""))
    headers: SecretStr = field(default_factory=lambda: SecretStr(""))
    ca_file: str | None = None
    setting: str = "HEADRACE_BACKEND_HOSTS"

    def check(self, endpoint: str) -> str:
        """The endpoint's normalised URL, built from its checked parts, without a slash at the end.

        Raises SetupError for an invalid list, and ArtifactError for an endpoint that is not allowed or has
        other parts than a scheme, a host, a port and a path.
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
        """True when the address that an allowed host resolves to may be called."""
        if _is_address(host):
            return True
        address = ip_address(resolved.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if host == "localhost":
            return address.is_loopback
        return _is_public(address) or any(address in network for network in self._networks())

    def token(self, endpoint: str) -> str | None:
        """The bearer token for an endpoint, if any; raises SetupError for an invalid list."""
        return next(_of_host(endpoint, self.tokens, "a list of tokens", "host[:port]=TOKEN"), None)

    def extra_headers(self, endpoint: str) -> dict[str, str]:
        """Further headers for an endpoint, by lower-case name; raises SetupError for an invalid list."""
        headers: dict[str, str] = {}
        for entry in _of_host(endpoint, self.headers, "HEADRACE_BACKEND_HEADERS", "host[:port]=NAME:VALUE"):
            name, _, value = entry.partition(":")
            if not _HEADER_NAME.fullmatch(name) or not value.strip() or name.lower() in _OWN_HEADERS:
                raise SetupError(
                    "HEADRACE_BACKEND_HEADERS has an entry that is not host[:port]=NAME:VALUE, or names a header that "
                    "HTTP or Headrace sets; a version sets the host by server.host"
                )
            headers[name.lower()] = value.strip()
        return headers

    def _networks(self) -> list[Network]:
        try:
            return [ip_network(network) for network in self.networks]
        except ValueError:
            raise SetupError("HEADRACE_BACKEND_NETWORKS has an invalid network; write 10.0.0.0/8,…") from None


def _split(endpoint: str) -> tuple[str, str, int, str]:
    try:
        parts = urlsplit(endpoint)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        raise ArtifactError("endpoint is not a URL; write http://HOST:PORT/PATH") from None
    host = parts.hostname
    if parts.scheme not in _PORTS or host is None or port is None:
        raise ArtifactError("endpoint is not an http or https URL; write http://HOST:PORT/PATH")
    if _has_other_parts(parts):
        raise ArtifactError(f"endpoint on {host} has a user, a query or a fragment; remove it")
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


def _of_host(endpoint: str, entries: SecretStr, name: str, form: str) -> Iterator[str]:
    """What a list has for the host of an endpoint; raises SetupError for an invalid list."""
    _, host, port, _ = _split(endpoint)
    listed = [
        _host_and_secret(entry, name, form) for entry in filter(None, entries.get_secret_value().split(","))
    ]
    return (secret for target, secret in listed if target in {(host, None), (host, port)})


def _host_and_secret(entry: str, name: str, form: str) -> tuple[HostAndPort, str]:
    where, _, secret = entry.strip().partition("=")
    try:
        target = _host_and_port(where, name)
    except SetupError:
        target = None
    # The entry is not quoted, because it may contain a secret. One with characters that are invalid in
    # a header is refused here, since the HTTP library's error would quote it.
    if target is None or not secret or not (secret.isascii() and secret.isprintable()):
        raise SetupError(f"{name} has an entry that is not {form}")
    return target, secret


def _has_other_parts(parts: SplitResult) -> bool:
    return parts.username is not None or parts.password is not None or bool(parts.query or parts.fragment)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (address.is_site_local or address.sixtofour is not None):
        return False
    # Reserved addresses include those that a gateway translates to IPv4 (RFC 6052), private ones too.
    return address.is_global and not address.is_multicast and not address.is_reserved


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

"""PURE rule for the addresses that a version may name as its endpoint.

Whoever may register a model must not be able to make workers call whatever they can reach: an
endpoint is on this machine, unless the operator of the workers lists other hosts, and then it is
one of those.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from schemas.errors import ArtifactError, SetupError

_PORTS = {"http": 80, "https": 443}


def check_endpoint(endpoint: str, allowed_hosts: Sequence[str] = ()) -> str:
    """The endpoint as it may be called, put together from what was checked; no slash at its end.

    `allowed_hosts` are `host[:port]`; a host without port allows all its ports, and an empty list
    allows loopback addresses. Raises SetupError for a list that cannot be read, and ArtifactError
    for an endpoint that is not allowed or has more than a scheme, a host, a port and a path.
    """
    allowed = _read(allowed_hosts)
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
    if not allowed and not _is_loopback(host):
        raise ArtifactError(f"endpoint host {host} is not on this machine; list it in HEADRACE_BACKEND_HOSTS")
    if allowed and not allowed & {(host, None), (host, port)}:
        raise ArtifactError(f"endpoint {host}:{port} is not listed in HEADRACE_BACKEND_HOSTS")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path.rstrip('/')}"


def _read(allowed_hosts: Sequence[str]) -> set[tuple[str, int | None]]:
    allowed = set()
    for entry in allowed_hosts:
        try:
            parts = urlsplit(f"//{entry}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if host is None or parts.netloc != entry or parts.username is not None:
            raise SetupError(f"HEADRACE_BACKEND_HOSTS has {entry!r}; write host or host:port")
        allowed.add((host, port))
    return allowed


def _carries_more(parts: SplitResult) -> bool:
    return parts.username is not None or parts.password is not None or bool(parts.query or parts.fragment)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

"""PURE. Who may read the page, and who may promote on it.

Everybody who reaches the address may read it; to promote takes the token. A page of another site must not read it
under a host name that resolves to this machine (DNS rebinding), nor send a request on behalf of a user.
"""

import hmac
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit


def is_ours(host: str, served_on: str, names: Collection[str] = ()) -> bool:
    """True when a request's `Host` is this machine, the address that the page listens on, or one of `names`.

    An address cannot be rebound, as a name can. So when the page listens on all addresses, any address is accepted.
    """
    name = _name(host)
    if name is None:
        return False
    if name in ("localhost", served_on.lower().strip("[]"), *map(str.lower, names)):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or _serves_all(served_on)


def is_same_site(host: str, origin: str | None, fetch_site: str | None) -> bool:
    """True when a request comes from the page itself, or not from a browser page."""
    if fetch_site not in (None, "same-origin", "none"):
        return False
    return origin is None or origin.lower().partition("://")[2] == host.lower()


def bears(authorization: str | None, token: str) -> bool:
    """True when the header has the token; compares in constant time."""
    scheme, _, given = (authorization or "").partition(" ")
    # aiohttp decodes bytes that are not UTF-8 as lone surrogates.
    same = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token.encode())
    return scheme.lower() == "bearer" and same


def _name(host: str) -> str | None:
    """The host without its port, in lower case; None when it is not a valid host."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return parts.hostname


def _serves_all(served_on: str) -> bool:
    try:
        return ip_address(served_on.strip("[]")).is_unspecified
    except ValueError:
        return False

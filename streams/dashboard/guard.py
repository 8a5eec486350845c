"""PURE. Who may have the page, and who may promote by it.

A page of elsewhere must not read it by a name that leads here (DNS rebinding), nor send anything in a user's
name. Who reaches the address may look; who promotes must have the token.
"""

import hmac
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit


def is_ours(host: str, served_on: str, names: Collection[str] = ()) -> bool:
    """Whether a request's `Host` is this machine itself, where the page is served, or one of further names.

    An address cannot be made to lead elsewhere, as a name can: where all addresses are served, any will do.
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
    """Whether a request comes from the page itself, or from no page at all."""
    if fetch_site not in (None, "same-origin", "none"):
        return False
    return origin is None or origin.lower().partition("://")[2] == host.lower()


def bears(authorization: str | None, token: str) -> bool:
    """Whether the header has the token; it takes as long wherever they differ."""
    scheme, _, given = (authorization or "").partition(" ")
    # What is no UTF-8 comes as lone surrogates.
    same = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token.encode())
    return scheme.lower() == "bearer" and same


def _name(host: str) -> str | None:
    """The host without its port, in small letters; None for what is none."""
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

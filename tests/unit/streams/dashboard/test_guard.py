"""streams/dashboard/guard.py: rebound host names, other sites' pages, and the token."""

import pytest

from streams.dashboard.guard import bears, is_ours, is_same_site

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("host", ["localhost:8350", "LOCALHOST", "127.0.0.1:1", "127.9.9.9", "[::1]:8350"])
@pytest.mark.parametrize("served_on", ["127.0.0.1", "0.0.0.0", "dash.example"])
def test_this_machine_itself_may_ask(host: str, served_on: str) -> None:
    assert is_ours(host, served_on)


@pytest.mark.parametrize(
    ("host", "served_on", "may"),
    [
        ("dash.example:8350", "dash.example", True),
        ("Dash.Example", "dash.example", True),
        ("10.1.2.3:80", "10.1.2.3", True),
        ("[2001:db8::7]:80", "2001:db8::7", True),
        ("10.1.2.3:80", "0.0.0.0", True),
        ("[2001:db8::7]", "::", True),
        ("10.1.2.3", "127.0.0.1", False),
        # A name of elsewhere that was made to lead here.
        ("rebound.example", "127.0.0.1", False),
        ("rebound.example", "0.0.0.0", False),
        ("localhost.rebound.example", "127.0.0.1", False),
        ("127.0.0.1.rebound.example", "127.0.0.1", False),
        ("localhost@rebound.example", "127.0.0.1", False),
        ("rebound.example#localhost", "127.0.0.1", False),
        ("rebound.example/localhost", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("[::1", "127.0.0.1", False),
        ("localhost:x", "127.0.0.1", False),
    ],
)
def test_only_the_address_that_is_served_may_be_asked_for(host: str, served_on: str, may: bool) -> None:
    assert is_ours(host, served_on) is may


def test_further_names_may_be_asked_for() -> None:
    names = ("Dash.example", "ops.example")
    assert is_ours("dash.example:443", "0.0.0.0", names)
    assert is_ours("OPS.example", "127.0.0.1", names)
    assert not is_ours("other.example", "127.0.0.1", names)


@pytest.mark.parametrize(
    ("origin", "fetch_site", "same"),
    [
        ("http://127.0.0.1:8350", "same-origin", True),
        ("https://127.0.0.1:8350", None, True),
        (None, None, True),
        (None, "none", True),
        ("http://127.0.0.1:8351", None, False),
        ("http://evil.example", None, False),
        ("http://evil.example:8350", "cross-site", False),
        ("http://127.0.0.1:8350", "same-site", False),
        ("null", None, False),
        ("http://127.0.0.1:8350.evil.example", None, False),
    ],
)
def test_other_sites_pages_may_not_send(origin: str | None, fetch_site: str | None, same: bool) -> None:
    assert is_same_site("127.0.0.1:8350", origin, fetch_site) is same


@pytest.mark.parametrize(
    ("authorization", "may"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (f"Basic {TOKEN}", False),
        (TOKEN, False),
        ("Bearer", False),
        ("Bearer ", False),
        ("", False),
        (None, False),
        (f"Bearer {TOKEN}0", False),
        (f"Bearer {TOKEN[:-1]}", False),
        ("Bearer \udcff", False),
    ],
)
def test_the_token_is_whole_or_none(authorization: str | None, may: bool) -> None:
    assert bears(authorization, TOKEN) is may

"""workers/cache/sealing.py: a value is read only under the key and with the secret that it was sealed with."""

from hypothesis import given
from hypothesis import strategies as st

from workers.cache.sealing import TAG_BYTES, seal, unseal

SECRET = bytes(range(32))
KEY = b"m:v1:0123456789abcdef:" + b"0" * 32
LONGEST = 100


@given(st.binary(max_size=LONGEST))
def test_a_sealed_value_is_read(value: bytes) -> None:
    """Also an empty one; a missing one stays missing."""
    sealed = seal(SECRET, KEY, value)
    assert len(sealed) == TAG_BYTES + len(value)
    assert unseal(SECRET, [KEY, KEY], [sealed, None], LONGEST) == [value, None]


@given(st.binary(max_size=LONGEST), st.data())
def test_a_changed_value_is_missing(value: bytes, data: st.DataObject) -> None:
    """Whichever byte of the tag or the value differs."""
    sealed = bytearray(seal(SECRET, KEY, value))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    assert unseal(SECRET, [KEY], [bytes(sealed)], LONGEST) == [None]


def test_another_key_secret_or_size_is_missing() -> None:
    """A value cannot be moved to another key, taken from another installation, or be larger than the limit."""
    sealed = seal(SECRET, KEY, b"0.5")
    assert unseal(SECRET, [KEY[:-1] + b"1"], [sealed], LONGEST) == [None]
    assert unseal(bytes(32), [KEY], [sealed], LONGEST) == [None]
    assert unseal(SECRET, [KEY], [sealed], 2) == [None]
    assert unseal(SECRET, [KEY], [b""], LONGEST) == [None]

"""workers/cache/sealing.py: a value is read only under the key and with the secret that it was sealed with."""

from hypothesis import given
from hypothesis import strategies as st

from workers.cache.sealing import TAG_BYTES, Sealer

SEALER = Sealer(bytes(range(32)))
KEY = b"m:v1:0123456789abcdef:" + b"0" * 32
LONGEST = 100


def seal(value: bytes) -> bytes:
    (sealed,) = SEALER.seal([KEY], [value])
    assert sealed is not None
    return sealed


@given(st.binary(max_size=LONGEST))
def test_a_sealed_value_is_read(value: bytes) -> None:
    """Also an empty one; a missing one stays missing."""
    sealed = seal(value)
    assert len(sealed) == TAG_BYTES + len(value)
    assert SEALER.unseal([KEY, KEY], [sealed, None], LONGEST) == [value, None]
    assert SEALER.unseal([KEY], [sealed], LONGEST) == [value]


@given(st.binary(max_size=LONGEST), st.data())
def test_a_changed_value_is_missing(value: bytes, data: st.DataObject) -> None:
    """Whichever byte of the tag or the value differs; its neighbours are read."""
    sealed = bytearray(seal(value))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    neighbour = seal(b"0.5")
    assert SEALER.unseal([KEY] * 3, [neighbour, bytes(sealed), None], LONGEST) == [b"0.5", None, None]


def test_another_key_secret_or_size_is_missing() -> None:
    """A value cannot be moved to another key, taken from another installation, or be larger than the limit."""
    sealed = seal(b"0.5")
    assert SEALER.unseal([KEY[:-1] + b"1"], [sealed], LONGEST) == [None]
    assert Sealer(bytes(32)).unseal([KEY], [sealed], LONGEST) == [None]
    assert SEALER.unseal([KEY], [sealed], 2) == [None]
    assert SEALER.unseal([KEY], [b""], LONGEST) == [None]

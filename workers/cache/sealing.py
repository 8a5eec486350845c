"""PURE. Sealed values: cached predictions with a tag, by which a worker recognises what another worker wrote.

Redis is shared, and anybody who may write to it may write predictions. A tag is the BLAKE2b-128 (RFC 7693) of the
installation's secret, the key and the value. BLAKE2b has no length extension, so a secret at the beginning
authenticates as its keyed mode does, and costs one block less: 0.4 instead of 0.6 µs. No two pairs of a key and a value
run together, because keys end with a digest of constant length and contain no second one.
"""

from collections.abc import Sequence
from hashlib import blake2b

TAG_BYTES = 16


def seal(secret: bytes, key: bytes, value: bytes) -> bytes:
    """A value with its tag for this key."""
    return blake2b(secret + key + value, digest_size=TAG_BYTES).digest() + value


def unseal(
    secret: bytes, keys: Sequence[bytes], sealed: Sequence[bytes | None], max_value_bytes: int
) -> list[bytes | None]:
    """The value of each key; None for what is None, too large, or has another tag than `seal` gives it."""
    longest = TAG_BYTES + max_value_bytes
    # One expression for all: it is on the path of each cached response. Whoever writes to Redis learns more by reading
    # it than by the time of this comparison.
    return [
        value[TAG_BYTES:]
        if value is not None
        and len(value) <= longest
        and blake2b(secret + key + value[TAG_BYTES:], digest_size=TAG_BYTES).digest() == value[:TAG_BYTES]
        else None
        for key, value in zip(keys, sealed, strict=True)
    ]

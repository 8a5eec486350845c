"""streams/serving/cache_reading.py: how many values are read at once."""

from collections.abc import Sequence

from streams.serving.cache_reading import READ_BYTES, CacheReader
from streams.serving.requests import RequestContext
from tests.support.models.served_versions import RecordingBackend, record_of, served_version

ONE = served_version("m", "v1", RecordingBackend())
OTHER = served_version("m", "v2", RecordingBackend())
LARGE = b"1" * (READ_BYTES // 100)


class Values:
    """A cache in which each key has the same value."""

    def __init__(self, value: bytes | None) -> None:
        self.value = value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.value] * len(keys)

    async def set_many(self, items: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> None:
        raise NotImplementedError


def requests(count: int) -> list[RequestContext]:
    return [RequestContext(record_of(b"{}")) for _ in range(count)]


async def test_large_values_are_read_in_parts() -> None:
    """As soon as values were seen; those of each version stay in order."""
    reader, asked = CacheReader(Values(LARGE)), {ONE: requests(250), OTHER: requests(10)}
    (whole,) = reader.parts(asked)
    assert whole is asked
    hits, misses = await reader.look_up(whole)
    assert misses == {}
    assert {version: len(predictions) for version, (_, predictions) in hits.items()} == {ONE: 250, OTHER: 10}
    parts = list(reader.parts(asked))
    assert [{version: len(each) for version, each in part.items()} for part in parts] == [
        {ONE: 100},
        {ONE: 100},
        {ONE: 50},
        {OTHER: 10},
    ]
    assert [one for part in parts for one in part.get(ONE, [])] == asked[ONE]


async def test_small_values_and_misses_are_read_at_once() -> None:
    asked = {ONE: requests(2000)}
    values = Values(b"1")
    reader = CacheReader(values)
    assert len((await reader.look_up(asked))[0][ONE][0]) == 2000
    values.value = None
    assert await reader.look_up(asked) == ({}, asked)
    assert list(reader.parts(asked)) == [asked]

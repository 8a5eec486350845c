"""Reads of the prediction cache for the requests of a slice, as many at once as their values allow."""

from collections.abc import Iterator
from typing import cast

from streams.serving.ports import Cache
from streams.serving.requests import RequestContext, Requests
from streams.serving.route_table import ServedVersion

Answered = tuple[list[RequestContext], list[bytes]]
"""Requests with their predictions."""

# The values of one read, by the size of those that were read last.
READ_BYTES = 8 * 1024 * 1024
FEWEST_REQUESTS = 64


class CacheReader:
    """Reads predictions of several versions with one call to the cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._value_bytes = 1.0

    def parts(self, requests: Requests) -> Iterator[Requests]:
        """The requests in parts whose values come to about `READ_BYTES`; nearly always one."""
        limit = max(FEWEST_REQUESTS, int(READ_BYTES / self._value_bytes))
        if sum(map(len, requests.values())) <= limit:
            yield requests
            return
        for version, of_version in requests.items():
            for start in range(0, len(of_version), limit):
                yield {version: of_version[start : start + limit]}

    async def look_up(self, requests: Requests) -> tuple[dict[ServedVersion, Answered], Requests]:
        """Split the requests of each version into cache hits and misses, with one read for all."""
        hits: dict[ServedVersion, Answered] = {}
        misses: Requests = {}
        cacheable: Requests = {}
        for version, of_version in requests.items():
            (cacheable if version.cache_seconds else misses)[version] = of_version
        if not cacheable:
            return hits, misses
        keys: list[bytes] = []
        for version, of_version in cacheable.items():
            prefix = version.cache_prefix
            keys += [prefix + request.digest for request in of_version]
        values = await self._cache.get_many(keys)
        start = 0
        for version, of_version in cacheable.items():
            of_these = values[start : start + len(of_version)]
            start += len(of_version)
            # Most slices are all hits or all misses.
            missing = of_these.count(None)
            if missing == 0:
                hits[version] = of_version, cast("list[bytes]", of_these)
            elif missing == len(of_version):
                misses[version] = of_version
            else:
                found, predictions, missed = [], [], []
                for request, value in zip(of_version, of_these, strict=True):
                    if value is None:
                        missed.append(request)
                    else:
                        found.append(request)
                        predictions.append(value)
                hits[version], misses[version] = (found, predictions), missed
        self._learn(hits)
        return hits, misses

    def _learn(self, hits: dict[ServedVersion, Answered]) -> None:
        count = sum(len(predictions) for _, predictions in hits.values())
        if count:
            size = sum(sum(map(len, predictions)) for _, predictions in hits.values())
            self._value_bytes = max(1.0, size / count)

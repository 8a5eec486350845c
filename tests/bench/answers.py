"""PURE. Checks the outputs of a competitor: one that answers wrongly gets no figure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from registry.routing import RouteTable, bucket
from schemas.models import Route

from .broker import Output
from .competitors import Answers, Cache, Competitor
from .recommender import Recommender
from .workload import MODEL_NAME, message, number_of, user_id

# Every output is counted and matched with its request; one in this many is compared in full.
SAMPLE = 97
# A busy machine may delay Redis until a competitor goes on without it, which costs only its own rate.
LEAST_WARM_SHARE = 0.95
_SOURCE = re.compile(rb"^[\w.-]+/\d+/\d+$")
_DIGEST = re.compile(rb"^[0-9a-f]{32}$")


class WrongAnswerError(Exception):
    """A competitor did not do the work that is measured."""


@dataclass(frozen=True, slots=True)
class Model:
    """The model's route and, by version, what predicts its right answers."""

    route: Route
    revision: int
    versions: Mapping[str, Recommender]

    def version_of(self, user: str) -> str | None:
        return RouteTable.of(self.route).version_of(bucket(self.route.salt, user))


@dataclass(slots=True)
class Sheet:
    """The outputs of one round: add every output, then call `check`."""

    competitor: Competitor
    model: Model
    appended_ms: list[int] = field(default_factory=list)
    cached: int = 0
    _seen: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self._seen = bytearray(self.competitor.records)

    def add(self, output: Output) -> None:
        """Raises WrongAnswerError."""
        try:
            document = orjson.loads(output.value)
            number = number_of(
                document["id" if self.competitor.answers is Answers.CONSTANT else "request_id"]
            )
        except (ValueError, KeyError, TypeError):
            raise self._wrong(f"an output that belongs to no request: {output.value[:200]!r}") from None
        if number >= self.competitor.records:
            return  # a probe: it asks whether the competitor has started
        if self._seen[number]:
            raise self._wrong(f"request {number} was answered twice")
        self._seen[number] = 1
        self.appended_ms.append(output.appended_ms)
        if self.competitor.answers is Answers.PREDICTIONS:
            self.cached += document.get("cached") is True
            if "error" in document:
                raise self._wrong(f"request {number} failed: {document['error']}")
        if number % SAMPLE == 0:
            self._look_at(number, output, document)

    def check(self) -> None:
        """Call it after the last output; raises WrongAnswerError."""
        missing = self._seen.count(0)
        if missing:
            raise self._wrong(f"{missing} of {self.competitor.records} requests have no answer")
        share = self.cached / self.competitor.records
        if (self.competitor.cache is Cache.WARM and share < LEAST_WARM_SHARE) or (
            self.competitor.cache is Cache.COLD and self.cached > 0
        ):
            raise self._wrong(f"{self.cached} of {self.competitor.records} answers came from the cache")

    def _look_at(self, number: int, output: Output, document: dict[str, object]) -> None:
        asked = message(number, self.competitor.dialect)
        if output.key != asked.key:
            raise self._wrong(f"request {number} has the key {output.key!r}")
        match self.competitor.answers:
            case Answers.ECHO:
                right = output.value == asked.value
            case Answers.CONSTANT:
                right = document["outputs"] == [_CONSTANT]
            case Answers.PREDICTIONS:
                right = self._is_prediction(number, document) and _has_headers(output)
        if not right:
            raise self._wrong(f"request {number} is answered with {output}")

    def _is_prediction(self, number: int, document: dict[str, object]) -> bool:
        user = user_id(number)
        version = self.model.version_of(user)
        assert version is not None
        named = {
            "model_name": MODEL_NAME,
            "model_version": version,
            "user_id": user,
            "revision": self.model.revision,
            "stale": False,
        }
        return (
            named.items() <= document.items()
            and isinstance(document["latency_ms"], float)
            and self.model.versions[version].agrees(number, document["predictions"])
        )

    def _wrong(self, what: str) -> WrongAnswerError:
        return WrongAnswerError(f"{self.competitor.name}: {what}")


_CONSTANT = {"name": "items", "shape": [1, 10], "datatype": "INT64", "data": list(range(10))}


def _has_headers(output: Output) -> bool:
    headers = dict(output.headers)
    return (
        _SOURCE.match(headers.get("headrace-source", b"")) is not None
        and _DIGEST.match(headers.get("headrace-input-digest", b"")) is not None
        and headers.get("content-type") == b"application/json"
    )

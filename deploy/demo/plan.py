"""PURE. What the demo is about: its model and versions, its requests, and the count of their responses."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.events import JsonObject, PredictResponse
from schemas.histogram import HistogramBuilder, quantile

MODEL_NAME = "movie-recommendations"
POPULARITY, ALS = "v1", "v2"
CANARY_PERCENT = 10


@dataclass(frozen=True, slots=True)
class Visit:
    """A user who asks what to watch next."""

    user_id: str
    user_idx: int

    @property
    def input(self) -> JsonObject:
        return {"user_idx": self.user_idx}


@dataclass(slots=True)
class Tally:
    """What the client saw; `durations_ms` are from the sending to the answer."""

    sent: int = 0
    answered: int = 0
    errors: int = 0
    cached: int = 0
    by_version: Counter[str] = field(default_factory=Counter)
    durations_ms: HistogramBuilder = field(default_factory=HistogramBuilder)
    last_trouble: str = ""

    def count(self, response: PredictResponse, duration_ms: float) -> None:
        self.answered += 1
        self.cached += response.cached
        self.durations_ms.add(duration_ms)
        self.by_version[response.model_version] += 1
        if response.error is not None:
            self.errors += 1
            self.last_trouble = f"{response.error.code}: {response.error.message}"

    @property
    def waiting(self) -> int:
        """Requests without an answer: on their way, and once the replay has ended, lost."""
        return self.sent - self.answered

    def closed(self, versions: Iterable[str]) -> JsonObject:
        """The result after the end, as one JSON object; it lists `versions` also where none answered."""
        durations = self.durations_ms.taken()
        return {
            "sent": self.sent,
            "answered": self.answered,
            "lost": self.waiting,
            "errors": self.errors,
            "cached": self.cached,
            "by_version": dict.fromkeys(versions, 0) | dict(self.by_version),
            "p50_ms": round(quantile(durations, 0.5), 2),
            "p99_ms": round(quantile(durations, 0.99), 2),
        }

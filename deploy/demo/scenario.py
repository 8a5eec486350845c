"""PURE. The demo's model and versions, its requests, and the counts of their responses."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.events import JsonObject, PredictResponse
from schemas.histogram import HistogramBuilder, quantile

MODEL_NAME = "movie-recommendations"
POPULARITY, ALS = "v1", "v2"
CANARY_PERCENT = 10


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """A request for recommendations for one user; `user_idx` is the user's row in the model."""

    user_id: str
    user_idx: int

    @property
    def input(self) -> JsonObject:
        return {"user_idx": self.user_idx}


@dataclass(slots=True)
class ReplayCounts:
    """The responses as the client sees them; durations are from sending to response, in milliseconds."""

    sent: int = 0
    answered: int = 0
    errors: int = 0
    cached: int = 0
    by_version: Counter[str] = field(default_factory=Counter)
    durations_ms: HistogramBuilder = field(default_factory=HistogramBuilder)
    last_error: str = ""

    def count(self, response: PredictResponse, duration_ms: float) -> None:
        self.answered += 1
        self.cached += response.cached
        self.durations_ms.add(duration_ms)
        self.by_version[response.model_version] += 1
        if response.error is not None:
            self.errors += 1
            self.last_error = f"{response.error.code}: {response.error.message}"

    @property
    def waiting(self) -> int:
        """Requests without a response: in flight, or lost when the replay has ended."""
        return self.sent - self.answered

    def summary(self, versions: Iterable[str]) -> JsonObject:
        """The result after the replay as one JSON object, with a count for each of `versions`."""
        durations = self.durations_ms.drain()
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
